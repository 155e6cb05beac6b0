"""Medians of samples: by the device's own clock for what it does alone, by the wall for what the host takes part in."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from .. import timing
from .run import Run

ROUNDS = 9  # of what takes microseconds


def by_device(run: Run, work: Callable[[], object], *, graph: bool) -> tuple[float, bool]:
    """(median us, whether it was a CUDA graph), with the L2 cache emptied before; by the wall on the CPU."""
    if not run.cuda:
        sample = timing.on_host(work)
        return 1e6 * min(sample() for _ in range(2)), False
    captured = False
    if graph:
        with suppress(RuntimeError):
            work, captured = timing.graphed(work), True
    else:
        work()
        work()
    sample = timing.on_device(work)
    return 1e6 * statistics.median(sample() for _ in range(ROUNDS)), captured


def taking_turns(run: Run, contenders: dict[str, Callable[[], object]]) -> dict[str, dict[str, Any]]:
    """By name: {"ms": median by the wall, "iqr_ms", "rounds"}."""
    plan = timing.Plan(run.sizes.rounds, min(run.sizes.seconds * len(contenders), run.left() / 2), least=1)
    samples = timing.interleave({name: timing.on_host(work) for name, work in contenders.items()}, plan)
    return {
        name: {
            "ms": 1e3 * statistics.median(found),
            "iqr_ms": 1e3 * timing.iqr(found),
            "least_ms": 1e3 * min(found),
            "rounds": len(found),
        }
        for name, found in samples.items()
    }
