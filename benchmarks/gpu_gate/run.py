"""What a section of the gate is given: a device, sizes, seconds, and where its rows go."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

T = TypeVar("T")
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How much is run. model: changes of the preset; rounds: samples of a time."""

    preset: str
    batch: int
    side: int
    inference: tuple[int, ...]
    rounds: int
    seconds: float  # of a group's samples
    model: dict[str, Any] = field(default_factory=dict)

    def config(self) -> Any:
        from aminet_fast.network.presets import get_config

        return get_config(self.preset).replace(**self.model)


FULL = Sizes("aminet", batch=32, side=128, inference=(1, 8), rounds=15, seconds=4.0)
# Every operator, in a network of seconds.
NARROW = {"width": 4, "heads": (1, 1, 2, 4)}
TINY = Sizes("aminet-nano", batch=2, side=32, inference=(1,), rounds=1, seconds=0.0, model=NARROW)


class SkippedError(Exception):
    """A section cannot run here; the message says why."""


class Rows:
    """A file of JSON lines, each there as soon as it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, kind: str, **values: Any) -> Row:
        row = {"row": kind, **rounded(values)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        return row

    def read(self) -> list[Row]:
        return read(self.path)


def read(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file. A last line that was cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def rounded(value: Any) -> Any:
    """Floats to five digits, infinite ones and NaN as words, in dicts and lists."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if abs(value) < float("inf") else str(value)
    if isinstance(value, dict):
        return {name: rounded(member) for name, member in value.items()}
    return [rounded(member) for member in value] if isinstance(value, (list, tuple)) else value


@dataclass
class Run:
    """A section's own.

    tiny: shapes of a dry run. options: those of the command line. until: the time at which it has to be done.
    """

    device: torch.device
    tiny: bool
    rows: Rows
    out: Path
    work: Path
    options: Any
    section: str
    until: float
    tried: frozenset[str] = frozenset()  # by an earlier process
    culprits: frozenset[str] = frozenset()  # of those, the ones that ended it

    @property
    def sizes(self) -> Sizes:
        return TINY if self.tiny else FULL

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds."""
        return self.until - time.time()

    def write(self, kind: str, **values: Any) -> None:
        row = self.rows.write(kind, section=self.section, **values)
        print(line_of(row), flush=True)

    def skip(self, what: str, why: str) -> None:
        """A row for what was not done."""
        self.write("skipped", what=what, why=why)

    def need_cuda(self, what: str) -> bool:
        """Whether there is a CUDA device; else `what` is noted as skipped."""
        if not self.cuda:
            self.skip(what, f"not on {self.device.type}")
        return self.cuda

    def each(self, items: Iterable[T], what: str, reserve: float = 2.0, once: bool = False) -> Iterator[T]:
        """The items while there is time; how many were not reached is noted.

        Each is noted before it is tried, so that one that ends the process is left out by the next. once: so are all
        that the former process tried, because nothing is compared after the last of them.
        """
        waiting: Sequence[T] = list(items)
        for number, item in enumerate(waiting):
            name = f"{what}: {' '.join(map(str, item)) if isinstance(item, tuple) else item}"
            if name in self.culprits:
                self.skip(name, "it ended a process")
            if name in self.culprits or (once and name in self.tried):
                continue
            if self.left() < reserve:
                self.skip(f"{len(waiting) - number} of {len(waiting)} {what}", "no time left")
                return
            self.rows.write("trying", section=self.section, item=name)
            yield item


def line_of(row: Row) -> str:
    """A row as the log has it: short."""
    shown = {k: v for k, v in row.items() if k not in ("row", "section") and not isinstance(v, (list, dict))}
    return f"  {row['row']}: " + ", ".join(f"{name} {value}" for name, value in shown.items())
