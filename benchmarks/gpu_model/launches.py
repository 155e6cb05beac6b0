"""A launch, as it is noted: of which kernel, for which operator, with which tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Described = tuple[tuple[int, ...], str]  # shape, dtype


@dataclass
class Launch:
    kind: str  # "triton", "cuda" (compiled; one entry a call of an operator, until compiled.py splits it) or "aten"
    name: str  # of the kernel, of the operator, of aten's function
    operator: str  # aminet_fast's that it is part of, or "torch"
    size: str  # of the operator's data: "24@128", "24->64@128"
    phase: str  # "forward" or "backward"
    tensors: dict[str, Described]  # arguments; of aten also results
    grid: tuple[int, ...] = (1, 1, 1)
    warps: int = 0
    registers: int = 0
    blocks: int = 0  # that fit on a multiprocessor
    constants: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, int | float] = field(default_factory=dict)
    cubin: Path | None = None
    ttir: Path | None = None
    arguments: Any = None  # "cuda": what the compiled function is given, to find its launches

    @property
    def bytes(self) -> int:
        return sum(nbytes(t) for t in self.tensors.values())

    @property
    def on_images(self) -> bool:
        return any(is_image(shape) for shape, _ in self.tensors.values())

    @property
    def cast_bytes(self) -> int:
        """Bytes of a change of dtype of an image, 0 for everything else."""
        if self.kind != "aten" or self.name not in ("_to_copy", "copy_") or not self.on_images:
            return 0
        return self.bytes if len({dtype for _, dtype in self.tensors.values()}) > 1 else 0


def is_image(shape: tuple[int, ...]) -> bool:
    """[N, C, H, W] of at least 8x8 pixels: weights have at most 7x7 taps."""
    return len(shape) == 4 and shape[2] * shape[3] >= 64


def nbytes(described: Described) -> int:
    shape, dtype = described
    return torch.Size(shape).numel() * getattr(torch, dtype).itemsize


def described(t: Tensor) -> Described:
    return tuple(t.shape), str(t.dtype).removeprefix("torch.")


def bare(kernel: str) -> str:
    """A kernel's own name: "front" of "rdfe::front<bf16>"."""
    return kernel.split("<")[0].split("(")[0].rpartition("::")[2]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Those among arguments, in order, nested as they may be."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_in(member)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def stand_ins(value: Any) -> Any:
    """The arguments with a description for each tensor."""
    if isinstance(value, Tensor):
        dtype = str(value.dtype).removeprefix("torch.")
        return {"shape": tuple(value.shape), "stride": tuple(value.stride()), "dtype": dtype}
    if isinstance(value, (list, tuple)):
        return [stand_ins(member) for member in value]
    return value


def size_of(operator: str, args: Any) -> str:
    """Channels and side of the first image among an operator's arguments, and of a convolution's result."""
    given = list(tensors_in(list(args)))
    images = [t for t in given if is_image(tuple(t.shape))]
    if not images:
        return ""
    image = next((t for t in images if t.shape[1] > 2), images[0])  # maps have two channels
    if operator.startswith("norm_act_conv"):
        weight = next((t for t in given if t.dim() == 4 and tuple(t.shape[2:]) == (3, 3)), None)
        if weight is not None:
            maps = [t for t in given if t.dim() == 4 and t is not weight]  # x; or dy, x, y
            x = maps[min(1, len(maps) - 1)]
            stride, _, upsample, *_ = (value for value in args if type(value) in (int, bool))
            return f"{weight.shape[1]}->{weight.shape[0]}@{x.shape[2]}{' x2' * upsample}{' /2' * (stride == 2)}"
    return f"{image.shape[1]}@{image.shape[2]}"
