"""Microseconds of a launch on an H200: cycles of the busiest unit, or bytes, times a factor of factors.json.

Units are those of one multiprocessor of sm_90.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from . import sass, trips, ttir
from .launches import Launch, bare

FACTORS = Path(__file__).with_name("factors.json")
CLOCK = 1.755e9  # Hz under load, assumed; boost is 1.98e9
MULTIPROCESSORS = 132
BANDWIDTH = 4.2e12  # bytes a second of a plain copy, measured
GAP = 1.2  # us between launches of a graph
SHORTEST = 1.0  # us of a kernel that does next to nothing
LEAST_GEMM = 3.0  # us of a product or convolution of cuDNN or cuBLAS
GEMMS = ("convolution", "convolution_backward", "mm", "matmul", "bmm", "addmm")


@dataclass
class Estimate:
    us: float  # with the gap before it
    static: float  # us of the busiest unit
    bound: str  # which that is: issue, fma, alu, lsu, tensor, xu, bytes; "aten"; "not modelled": its bytes alone
    units: dict[str, float]  # us of each
    unknown: int = 0  # loops whose passes are guesses


@dataclass(frozen=True)
class Factor:
    """A row of factors.json: for what it is, and what it says."""

    kind: str
    factor: float
    fit: str
    kernel: str = ""  # without namespaces and template arguments; "": any
    kernels: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    least_blocks: int = 0  # on a multiprocessor
    constants: dict[str, Any] = field(default_factory=dict)

    def fits(self, launch: Launch, bound: str) -> bool:
        named = self.kernel in ("", bare(launch.name)) and (not self.kernels or launch.name in self.kernels)
        bounded = not self.bound or bound in self.bound
        constants = all(bool(launch.constants.get(name)) == value for name, value in self.constants.items())
        return launch.kind == self.kind and named and bounded and launch.blocks >= self.least_blocks and constants


@cache
def factors() -> tuple[Factor, ...]:
    data = json.loads(FACTORS.read_text(encoding="utf-8"))
    rows = [*data["kernels"], *data["others"]]
    unknown = {row["fit"] for row in rows} - set(data["fits"])
    if unknown:
        raise ValueError(f"{FACTORS.name}: fits that are not described: {sorted(unknown)}")
    lists = ("kernels", "bound")
    return tuple(Factor(**{n: tuple(v) if n in lists else v for n, v in row.items()}) for row in rows)


def factor(launch: Launch, bound: str) -> Factor:
    """The first row that fits a launch."""
    return next(row for row in factors() if row.fits(launch, bound))


def bounded(launch: Launch, units: dict[str, float], unknown: int = 0) -> Estimate:
    """By the busiest of some units; us of each."""
    bound = max(units, key=lambda unit: units[unit])
    us = GAP + max(SHORTEST, factor(launch, bound).factor * units[bound])
    return Estimate(us, units[bound], bound, units, unknown)


def unit_times(code: sass.Code, executions: list[float], programs: int, warps: int, part: float) -> dict[str, float]:
    """us of each unit, where programs are spread over the multiprocessors in whole waves.

    executions: of each loop's body, by one warp. part: of what is straight in the outermost loop, the part that runs.
    """
    return busy(*sass.totals(code, executions, part), programs, warps)


def busy(counts: Counter[str], lsu: float, tensor: float, programs: int, warps: int) -> dict[str, float]:
    """us of each unit. counts: a warp's instructions by class; lsu, tensor: its cycles of these units."""
    cycles = {
        "issue": sum(counts.values()) / 4,
        "fma": counts["FMA"] / 4 + counts["IMAD"] / 2,
        "alu": counts["ALU"] / 2,
        "xu": counts["XU"] * 2,
        "lsu": lsu,
        "tensor": tensor,
    }
    waves = math.ceil(programs / MULTIPROCESSORS)
    return {unit: value * warps * waves / CLOCK * 1e6 for unit, value in cycles.items()}


def bytes_time(launch: Launch) -> float:
    """us of reading and writing every tensor of a launch once."""
    return launch.bytes / BANDWIDTH * 1e6


def of_triton(launch: Launch) -> Estimate:
    assert launch.cubin is not None
    assert launch.ttir is not None
    code = sass.read(launch.cubin)
    about = launch.constants, launch.scalars, launch.tensors, launch.grid
    found = trips.trips(code, ttir.loops(launch.ttir, launch.scalars, launch.grid), launch.name, *about)
    part = trips.part_taken(launch.name, launch.constants)
    units = unit_times(code, found.executions, math.prod(launch.grid), launch.warps, part)
    return bounded(launch, units | {"bytes": bytes_time(launch)}, found.unknown)


def of_aten(launch: Launch) -> Estimate:
    static = bytes_time(launch)
    least = LEAST_GEMM if launch.name in GEMMS else SHORTEST
    us = GAP + max(least, static * factor(launch, "bytes").factor)
    return Estimate(us, static, "aten", {"bytes": static})


def estimates(launches: list[Launch], of_compiled: Callable[[Launch], Estimate]) -> list[Estimate]:
    """One for each launch; equal launches are looked at once."""
    known: dict[tuple, Estimate] = {}
    found = []
    for launch in launches:
        if launch.kind == "triton":
            key = (launch.cubin, launch.grid, *launch.scalars.values(), *launch.tensors.values())
            if key not in known:
                known[key] = of_triton(launch)
            found.append(known[key])
        else:
            found.append(of_aten(launch) if launch.kind == "aten" else of_compiled(launch))
    return found
