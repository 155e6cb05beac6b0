"""The launches inside of a compiled operator (csrc/cuda), and what they take.

Its host code runs on the CPU, against the tests' emulator, which says what is launched and counts what a block does
(counted.py); the same source compiled for sm_90 has the instructions; flow.py puts both together.
"""

from __future__ import annotations

import json
import math
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from . import FOLDER, costs, flow, lined
from .counted import Call, Counted, CountingError, count, source_of
from .fake_gpu import ARCH
from .launches import Launch

TRUSTED = 0.5  # of what was counted, the part that passes must give


def split(launches: list[Launch], *, running: bool = True) -> list[Launch]:
    """The calls of compiled operators replaced by their launches; as they are where these cannot be found out.

    running: False where only the number of launches is asked for: no kernel is compiled then.
    """
    calls = {call_of(launch): None for launch in launches if launch.kind == "cuda"}
    with ThreadPoolExecutor(1) as beside:  # nvcc takes as long as what is counted
        if running:
            beside.submit(_make_all, [name for name, _ in calls])
        counts = count([(name, json.loads(given)) for name, given in calls], running)
    found = dict(zip(calls, counts, strict=True))
    result: list[Launch] = []
    for launch in launches:
        counted = found[call_of(launch)] if launch.kind == "cuda" else None
        if isinstance(counted, CountingError):
            warn(f"{launch.name}: its launches could not be counted: {counted}")
        if not isinstance(counted, list):
            result.append(launch)
            continue
        result += [_launch(launch, one, running) for one in counted]
    return result


def call_of(launch: Launch) -> Call:
    return launch.name, json.dumps(launch.arguments)


def _launch(call: Launch, counted: Counted, running: bool = True) -> Launch:
    registers = 0
    try:
        if running:
            registers = _used(source_of(call.name)).get(counted.symbol, 0)
    except CountingError as error:
        warn(str(error))
    warps, programs = -(-counted.threads // 32), math.prod(counted.grid)
    return replace(
        call,
        name=_short(counted.symbol) or counted.name,
        tensors={},
        grid=counted.grid,
        warps=warps,
        registers=registers,
        blocks=_resident(registers, warps, counted.shared, programs),
        constants={"counted": counted, "call": call.name},
    )


def _resident(registers: int, warps: int, shared: int, programs: int) -> int:
    """Blocks on a multiprocessor: those that fit, and that there are."""
    from tests.harness.triton.resources import blocks_that_fit

    if not registers:
        return 0
    return min(blocks_that_fit(registers, warps, shared, ARCH), math.ceil(programs / costs.MULTIPROCESSORS))


@cache
def warn(text: str) -> None:
    print(f"gpu_model: {text}", file=sys.stderr)


def _make_all(names: list[str]) -> None:
    """What is wrong with a source is told when it is asked for."""
    with suppress(CountingError):
        for source in dict.fromkeys(map(source_of, names)):
            _made(source)


@cache
def _made(source: Path) -> Any:
    """The source compiled for sm_90. Raises CountingError."""
    from tests.harness.cuda import nvcc

    if problem := nvcc.problem():
        raise CountingError(problem)
    try:
        return nvcc.compiled(source, ARCH, flags=["-lineinfo"], folder=FOLDER / "sm90")
    except nvcc.CompileError as error:
        raise CountingError(str(error)) from None


@cache
def _used(source: Path) -> dict[str, int]:
    """Registers of every kernel, by symbol."""
    from tests.harness.cuda import resources

    return {symbol: used.registers for symbol, used in resources.used(_made(source), ARCH).items()}


@cache
def _codes(source: Path) -> dict[str, list[lined.Instruction]]:
    return lined.read(_made(source).path)


@cache
def _short(symbol: str) -> str:
    """ "tiles_kernel<bf16, 4, 1>" of a symbol."""
    from tests.harness.cuda import resources

    return resources.readable([symbol])[0] if symbol else ""


def estimate(launch: Launch) -> costs.Estimate:
    """By the busiest unit; by bytes alone, as "not modelled", where its machine code does not explain the counts."""
    counted = launch.constants.get("counted")
    if counted is None:
        return _by_bytes(launch, launch.bytes)
    try:
        found = _flow(source_of(launch.constants["call"]), counted)
    except (CountingError, KeyError, ValueError) as error:
        warn(f"{launch.name}: {error}")
        return _by_bytes(launch, counted.bytes)
    if found.explained < TRUSTED:
        warn(f"{launch.name}: only {found.explained:.0%} of what was counted is explained by its machine code")
        return _by_bytes(launch, counted.bytes)
    units = costs.busy(*flow.totals(found), math.prod(launch.grid), launch.warps)
    return costs.bounded(launch, units | {"bytes": counted.bytes / costs.BANDWIDTH * 1e6}, found.unknown)


@cache
def _flow(source: Path, counted: Counted) -> flow.Flow:
    codes = _codes(source)
    if counted.symbol not in codes:
        raise CountingError(f"nvcc made no kernel {counted.symbol or counted.name}")
    return flow.flow(codes[counted.symbol], list(counted.sites))


def _by_bytes(launch: Launch, moved: float) -> costs.Estimate:
    static = moved / costs.BANDWIDTH * 1e6
    us = costs.GAP + max(costs.SHORTEST, costs.factor(launch, "bytes").factor * static)
    return costs.Estimate(us, static, "not modelled", {"bytes": static})
