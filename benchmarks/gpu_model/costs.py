"""Microseconds of a launch on an H200: cycles of the busiest unit, or bytes, times a factor fitted to measurements.

Units are those of one multiprocessor of sm_90. The factors were fitted to 22 times measured on an H200 (README.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from . import sass
from . import trips
from . import ttir
from .collect import Launch

CLOCK = 1.755e9  # Hz under load, assumed; boost is 1.98e9
MULTIPROCESSORS = 132
BANDWIDTH = 4.2e12  # bytes a second of a plain copy, measured
GAP = 1.2  # us between launches of a graph
SHORTEST = 1.0  # us of a kernel that does next to nothing
LEAST_GEMM = 3.0  # us of a product or convolution of cuDNN or cuBLAS

# What a launch takes of what the busiest unit alone would take: fitted where a kernel was measured.
FACTORS = {
    "_sums_kernel": 1.5,
    "gram_kernel": 1.6,
    "outer_kernel": 2.0,
    "project_kernel": 2.2,
    "fuse_rows": 2.4,
    "fuse_gradient": 3.4,
    "input_gradient": 2.2,
}
UNMEASURED = 2.0  # 1.3 to 3.4 were found
BOUND_BY_BYTES = 1.3
# CUDA C++ was never timed as it is now: assumed, and fixed until a GPU refits it.
COMPILED = {"bytes": 1.3, "tensor": 1.3, "not modelled": 1.3, "table": 1.6, "issue": 1.6, "lsu": 1.6, "fma": 1.6, "alu": 1.6, "xu": 1.6}
ATEN = 1.25  # of its bytes
ATEN_PRODUCTS = {"convolution": 2.0, "convolution_backward": 2.0} | dict.fromkeys(("mm", "matmul", "bmm", "addmm"), 1.4)


@dataclass
class Estimate:
    us: float  # with the gap before it
    static: float  # us of the busiest unit
    bound: str  # which that is: issue, fma, alu, lsu, tensor, xu, bytes; aten, not modelled
    units: dict[str, float]  # us of each
    unknown: int = 0  # loops whose trip counts are guesses


def factor(launch: Launch, bound: str) -> float:
    if launch.name == "_filter_kernel":
        return 1.2 if launch.constants.get("SHARED") else 1.7
    if launch.name in FACTORS:
        return FACTORS[launch.name]
    return BOUND_BY_BYTES if bound == "bytes" else UNMEASURED


def unit_times(code: sass.Code, executions: list[float], programs: int, warps: int, part: float) -> dict[str, float]:
    """us of each unit, where programs are spread over the multiprocessors in whole waves.

    part: of what is straight in the outermost loop, the part that runs.
    """
    counts, lsu, tensor = sass.totals(code, executions, part)
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


def of_triton(launch: Launch) -> Estimate:
    assert launch.cubin is not None
    assert launch.ttir is not None
    code = sass.read(launch.cubin)
    about = launch.constants, launch.scalars, launch.tensors, launch.grid
    found = trips.trips(code, ttir.loops(launch.ttir, launch.scalars, launch.grid), launch.name, *about)
    part = trips.part_taken(launch.name, launch.constants)
    units = unit_times(code, found.executions, math.prod(launch.grid), launch.warps, part)
    units["bytes"] = launch.bytes / BANDWIDTH * 1e6
    bound = max(units, key=lambda unit: units[unit])
    us = GAP + max(SHORTEST, factor(launch, bound) * units[bound])
    return Estimate(us, units[bound], bound, units, found.unknown)


def of_aten(launch: Launch) -> Estimate:
    static = launch.bytes / BANDWIDTH * 1e6
    least = LEAST_GEMM if launch.name in ATEN_PRODUCTS else SHORTEST
    us = GAP + max(least, static * ATEN_PRODUCTS.get(launch.name, ATEN))
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
