"""Samples of several contenders that take turns, so that drift of the machine hits all of them alike."""

from __future__ import annotations

import ctypes
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

FLUSH_BYTES = 256 * 2**20  # more than any L2
HEAD_START_CYCLES = 2_000_000  # about a millisecond, in which the host queues what is to be timed


@dataclass(frozen=True)
class Plan:
    """How long to measure a group: until `rounds` or, once `least` are done, `seconds`."""

    rounds: int
    seconds: float
    least: int = 3


def keep_memory() -> bool:
    """Tell glibc not to give freed memory back to the system between samples, for all contenders alike.

    By default it gives back what is free above a limit that depends on what was freed before, so which contender pays
    for mapping the pages again is chance. Returns whether there was a glibc to tell.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 32 * 2**20))


def interleave(contenders: dict[str, Callable[[], float]], plan: Plan) -> dict[str, list[float]]:
    """Each contender once a round, in an order that rotates; each call returns its own seconds."""
    names = list(contenders)
    samples: dict[str, list[float]] = {name: [] for name in names}
    if not names:
        return samples
    for name in names:
        contenders[name]()  # warm
    start = time.perf_counter()
    for done in range(plan.rounds):
        if done >= plan.least and time.perf_counter() - start > plan.seconds:
            break
        turn = done % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(contenders[name]())
    return samples


def on_host(run: Callable[[], object]) -> Callable[[], float]:
    """Seconds of one call by the wall, to the end of what it started on a GPU."""

    def sample() -> float:
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return sample


def on_device(run: Callable[[], object], flush: bool = True) -> Callable[[], float]:
    """Seconds that the GPU needs, with its L2 emptied before: the host is let ahead, so its work does not count."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cache = torch.empty(FLUSH_BYTES if flush else 1, dtype=torch.int8, device="cuda")

    def sample() -> float:
        cache.zero_()
        torch.cuda._sleep(HEAD_START_CYCLES)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3

    return sample


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """`run` as one CUDA graph's replay. Raises RuntimeError where it cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def iqr(samples: list[float]) -> float:
    """Distance between the quartiles."""
    if len(samples) < 2:
        return 0.0
    first, _, third = statistics.quantiles(samples, n=4, method="inclusive")
    return third - first


_readings: deque[float] = deque()


def replayed_clock() -> float:
    """pytest-benchmark's timer: it tells the samples of `replay` again, so that they stand in its table and JSON."""
    return _readings.popleft()


def replay(samples: list[float]) -> None:
    _readings.clear()
    for sample in samples:
        _readings.extend((0.0, sample))
