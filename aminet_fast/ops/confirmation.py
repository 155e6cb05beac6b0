"""What a GPU has confirmed: an operator's kernels gave the right values and gradients at the network's sizes there.

confirmed.json has an entry for operator, backend and dtype, with the hash of the kernels' source that ran, the device
and the versions. An entry counts while the source that is here has that hash. ``python -m benchmarks.gpu_model
--confirm`` writes it from the results of ``make gpu-gate``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from . import sources as _sources
from .extension import build_facts

TABLE = Path(__file__).with_name("confirmed.json")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Entry:
    """source: hash of the kernels that ran. device: its name. versions: of torch, triton, ... as they were."""

    operator: str
    backend: str
    dtype: str
    source: str
    device: str
    versions: tuple[tuple[str, str], ...]

    @property
    def holds(self) -> bool:
        """Whether the kernels are still those."""
        return self.source == source(self.operator, self.backend)

    def __str__(self) -> str:
        """Who confirmed it, in words."""
        return ", ".join([self.device, *(f"{name} {version}" for name, version in self.versions)])


def _entry(entry: dict[str, Any]) -> Entry:
    fields = ("operator", "backend", "dtype", "source", "device")
    if set(entry) != {*fields, "versions"} or not all(isinstance(entry[name], str) and entry[name] for name in fields):
        raise ValueError(f"{TABLE.name}: an entry has {', '.join(fields)} and versions, in {entry}")
    if entry["source"] == UNKNOWN:
        raise ValueError(f"{TABLE.name}: no source in {entry}")
    return Entry(**{name: entry[name] for name in fields}, versions=tuple(entry["versions"].items()))


@cache
def table() -> tuple[Entry, ...]:
    """The entries of confirmed.json; ValueError where one is none."""
    return tuple(map(_entry, json.loads(TABLE.read_text(encoding="utf-8"))["entries"]))


@cache
def source(operator: str, backend: str) -> str:
    """The hash of the kernels that are here, or "unknown"."""
    package = Path(__file__).parents[1]
    if backend == "triton":
        folders = [package / "kernels", package.parent / "kernels"]
        return next(filter(None, (_sources.of_triton(operator, folder) for folder in folders)), UNKNOWN)
    if backend == "cuda":
        # An install has no sources; its build noted what it compiled.
        noted = build_facts().get("cuda_sources", {}).get(operator, "")
        return _sources.of_cuda(operator, package.parent / "csrc") or noted or UNKNOWN
    return UNKNOWN


@cache
def dtypes(operator: str, backend: str) -> frozenset[str]:
    """In which the kernels that are here are confirmed, as "bfloat16"."""
    entries = [e for e in table() if (e.operator, e.backend) == (operator, backend)]
    return frozenset(entry.dtype for entry in entries if entry.holds)


def forget() -> None:
    """What was read is read again."""
    for cached in (table, source, dtypes):
        cached.cache_clear()
