"""Which kernels serve a call on a CUDA device, where an operator has Triton's and compiled ones: a table, as data.

dispatch.json has its rows, each with its reason: who measured it or, where no GPU has, what the static model estimates
(benchmarks/gpu_model). The first row that fits decides; where none does, Triton's run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import backends

TABLE = Path(__file__).with_name("dispatch.json")
DEFAULT = "triton"
ESTIMATE = "which kernels run is an estimate in part: no GPU has measured every row of dispatch.json that decides"
_BOUNDS = {"passes", "dtypes", "channels", "pixels", "capability"}
_FIELDS = {"operator", "backend", "reason", "measured_by", "estimated", *_BOUNDS}


@dataclass(frozen=True)
class Row:
    """`backend` serves calls of these passes ("fwd", "bwd", ...) with such data on such devices.

    passes, dtypes: () is all. channels, pixels (N*H*W): least and most, None without a bound. capability: of the
    device, at least. measured_by: the device that the reason is of; or else `estimated`.
    """

    operator: str
    backend: str
    reason: str
    passes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    channels: tuple[int | None, int | None] = (None, None)
    pixels: tuple[int | None, int | None] = (None, None)
    capability: tuple[int, int] = (0, 0)
    measured_by: str = ""
    estimated: bool = False

    @property
    def basis(self) -> str:
        """ "measured on NVIDIA H200", or "estimated"."""
        return "estimated" if self.estimated else f"measured on {self.measured_by}"

    def fits(self, name: str, dtype: str, channels: int, pixels: int, capability: tuple[int, int]) -> bool:
        if self.passes and name.removeprefix(f"{self.operator}_") not in self.passes:
            return False
        if self.dtypes and dtype not in self.dtypes:
            return False
        return _within(channels, self.channels) and _within(pixels, self.pixels) and capability >= self.capability

    def __str__(self) -> str:
        """The calls that it is for, in words."""
        names = " and ".join(f"{self.operator}_{suffix}" for suffix in self.passes) or self.operator
        words = [names, " or ".join(self.dtypes), _range("channels", self.channels), _range("pixels", self.pixels)]
        if self.capability > (0, 0):
            words.append("sm_{}{} or newer".format(*self.capability))
        return ", ".join(filter(None, words))


def _within(value: int, bounds: tuple[int | None, int | None]) -> bool:
    least, most = bounds
    return (least is None or value >= least) and (most is None or value <= most)


def _range(what: str, bounds: tuple[int | None, int | None]) -> str:
    """ "24 to 96 channels", or nothing."""
    least, most = bounds
    if least is None and most is None:
        return ""
    if least == most:
        return f"{least} {what}"
    return f"{least} {what} or more" if most is None else f"{'up' if least is None else least} to {most} {what}"


def _row(entry: dict[str, Any]) -> Row:
    if unknown := set(entry) - _FIELDS:
        raise ValueError(f"{TABLE.name}: unknown fields {sorted(unknown)} in {entry}")
    if not entry.get("operator"):
        raise ValueError(f"{TABLE.name}: no operator in {entry}")
    if entry.get("backend") not in ("triton", "cuda") or not entry.get("reason"):
        raise ValueError(f"{TABLE.name}: backend must be triton or cuda, with a reason, in {entry}")
    measured, estimated = entry.get("measured_by", ""), entry.get("estimated", False)
    if not isinstance(measured, str) or not isinstance(estimated, bool) or bool(measured) == estimated:
        raise ValueError(f"{TABLE.name}: either measured_by, the device's name, or estimated, true, in {entry}")
    values: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in entry.items()}
    return Row(**values)


@cache
def table() -> tuple[Row, ...]:
    """The rows of dispatch.json; ValueError where one is no row."""
    return tuple(map(_row, json.loads(TABLE.read_text(encoding="utf-8"))["rows"]))


@cache
def _of_operator(operator: str) -> tuple[Row, ...]:
    return tuple(row for row in table() if row.operator == operator)


@cache
def _capability(index: int | None) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


@lru_cache(4096)
def decide(
    operator: str, name: str, dtype: torch.dtype, channels: int, pixels: int, capability: tuple[int, int]
) -> str:
    """ "triton" or "cuda" for a call of aminet_fast::<name> with data of that dtype and size, on such a device."""
    dtype_name = str(dtype).removeprefix("torch.")
    for row in _of_operator(operator):
        if row.fits(name, dtype_name, channels, pixels, capability):
            if row.estimated:
                backends.warn(ESTIMATE)
            return row.backend
    return DEFAULT


def choose(operator: str, name: str, data: Tensor, channels: int) -> str:
    """`decide` for the data [N, C, H, W] of a call, which are on a CUDA device."""
    if not _of_operator(operator):
        return DEFAULT
    return decide(operator, name, data.dtype, channels, data.numel() // data.shape[1], _capability(data.device.index))
