"""How often a warp runs the body of each SASS loop: the loops of the TTIR, found again in the machine code.

LLVM unrolls loops with few passes, whole or by four with a rest, so there may be fewer or more of them in SASS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .sass import Code
from .ttir import Loop

MOST_UNROLLED = 32  # passes of a loop that may have been unrolled whole


@dataclass
class Trips:
    executions: list[float]  # of each SASS loop, passes by one warp in the whole kernel
    unknown: int = 0  # loops for which there was nothing better than a guess


def _segments(
    c: dict[str, Any], scalars: dict[str, Any], tensors: dict[str, Any], grid: tuple[int, ...]
) -> list[float]:
    """A program takes a chunk of the sorted pixels, and one of the convolutions: the others' loops do not run in it."""
    pixels, total, found = tensors["pixel_ptr"][0][0] / grid[0], c["FIRSTS"][-1], []
    for i, block in enumerate(c["BLOCKS"]):
        channels = c["FIRSTS"][i + 1] - c["FIRSTS"][i]
        part = (c["STARTS"][i + 1] - c["STARTS"][i]) / c["STARTS"][-1]  # of the programs
        runs = channels / grid[0] + 1  # of pixels of one channel in a chunk
        passes = max(1.0, pixels * channels / total / runs / (2048 // block))
        found += [part * runs, part * runs * passes]
    return found


# Loops whose bounds a kernel reads from memory: averages where maxima are spread evenly over pixels and taps.
FROM_MEMORY: dict[str, Callable[..., list[float]]] = {
    "segments_kernel": _segments,
    "finish_kernel": lambda c, scalars, tensors, grid: [2.0 / len(c["SIZES"])] * len(c["SIZES"]),
}


def part_taken(kernel: str, constants: dict[str, Any]) -> float:
    """Of the instructions straight in a kernel's outermost loop, those that run: the others are in branches by program.

    Those of loops are as they were when the factors of costs.py were fitted.
    """
    if kernel == "_pack":  # norm_act_conv's: a program takes one of the weights
        return 1 / constants["COUNT"]
    if kernel == "fuse_gradient":
        return 0.6
    return 0.82 if kernel == "_filter_kernel" and constants.get("SHARED") else 1.0


def trips(code: Code, loops: list[Loop], kernel: str = "", *about: Any) -> Trips:
    """about: the launch's constants, scalars, tensors and grid."""
    depths = [_depth(code, n) for n in range(len(code.loops))]
    found = _aligned(depths, loops)
    if found is None:
        found, loops = _with_rests(code, depths, loops)
    if found is None:
        return Trips(_guessed(code, depths, loops), len(code.loops))
    executions = [loop.executions for loop in found]
    unknown = [n for n, loop in enumerate(found) if not loop.known]
    if unknown and kernel in FROM_MEMORY:
        try:
            given = FROM_MEMORY[kernel](*about)
        except (KeyError, IndexError, TypeError, ZeroDivisionError):
            given = []
        if len(given) == len(executions):
            return Trips(given)
    return Trips(executions, len(unknown))


def _depth(code: Code, loop: int) -> int:
    depth, parent = 0, code.parent(loop)
    while parent is not None:
        depth, parent = depth + 1, code.parent(parent)
    return depth


def _aligned(depths: list[int], loops: list[Loop]) -> list[Loop] | None:
    """The TTIR loops that the SASS loops are, in order; those left out were unrolled, and had the fewest passes."""
    best: tuple[float, list[Loop]] | None = None

    def search(at: int, n: int, left: list[int], kept: list[Loop], cost: float) -> None:
        nonlocal best
        if best is not None and cost >= best[0]:
            return
        if n == len(loops):
            if at == len(depths):
                best = cost, kept
            return
        loop = loops[n]
        around = [depth for depth in left if depth < loop.depth]  # of unrolled loops that this one is in
        if at < len(depths) and depths[at] == loop.depth - len(around):
            # Inner loops are unrolled first: one that is kept in one that is not is the last thing to believe.
            search(at + 1, n + 1, around, [*kept, loop], cost + 1000 * len(around))
        if loop.fixed is not None and loop.fixed <= MOST_UNROLLED:
            search(at, n + 1, [*around, loop.depth], kept, cost + loop.fixed)

    if len(depths) <= len(loops) <= 24:
        search(0, 0, [], [], 0.0)
    return best[1] if best else None


def _with_rests(code: Code, depths: list[int], loops: list[Loop]) -> tuple[list[Loop] | None, list[Loop]]:
    """Where loops are followed by a much shorter one of the same depth: unrolled by four, and the rest."""
    rests = [
        n + 1
        for n in range(len(depths) - 1)
        if depths[n] == depths[n + 1]
        and code.loops[n + 1][0] > code.loops[n][1]
        and code.size(n) >= 2 * code.size(n + 1)
        and (n + 1 == len(depths) - 1 or depths[n + 2] <= depths[n + 1])
    ]
    extra = len(depths) - len(loops)
    if not 0 < extra <= len(rests):
        return None, loops
    by_ratio = sorted(rests, key=lambda n: code.size(n) / code.size(n - 1))[:extra]
    found = _aligned([d for n, d in enumerate(depths) if n not in by_ratio], loops)
    if found is None:
        return None, loops
    result: list[Loop] = []
    whole = iter(found)
    for n in range(len(depths)):
        if n in by_ratio:
            before, outer = result[-1], code.parent(n)
            entered = result[outer].executions if outer is not None else 1.0
            result[-1] = Loop(before.depth, before.executions / 4, before.known)
            result.append(Loop(before.depth, entered / 2, before.known))
        else:
            result.append(next(whole))
    return result, loops


def _guessed(code: Code, depths: list[int], loops: list[Loop]) -> list[float]:
    """Each loop as the first one of its depth that the TTIR has left, and at least as often as the loop around it."""
    left = list(loops)
    executions: list[float] = []
    for n, depth in enumerate(depths):
        same = next((loop for loop in left if loop.depth == depth), None)
        if same is not None:
            left.remove(same)
        parent = code.parent(n)
        outer = executions[parent] if parent is not None else 1.0
        executions.append(max(same.executions if same else 0.0, outer))
    return executions
