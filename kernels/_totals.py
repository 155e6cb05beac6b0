"""Sums of what programs or images left, for any number of parameters in one launch: no atomics, always in one order.

    total[j] = sum_i part[i, j],  or with a factor  total[r, c] = sum_i part[i, r] factor[i, c]

A program adds up some neighbours of one total, all of its rows, many of them loaded at once: the totals of the
network's sizes are some hundreds of programs at most, and a sum of 1024 rows is two loads after each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from ._common import next_power_of_2, on_device_of

DEEPEST = 512  # rows that a program loads at once


@dataclass(frozen=True)
class Total:
    """One of them: `to`, of any dtype, from part [rows, ...], and factor [rows, columns] where there is one."""

    part: Tensor
    to: Tensor
    factor: Tensor | None = None


@triton.constexpr_function
def _width(size: int, depth: int) -> int:
    """How many neighbours a program adds up, `depth` rows at once: for 256 programs, but at least a tile of 1024
    numbers, and vectors of 32 bytes."""
    return min(512, max(8, 1024 // depth, 1 << (size // 256).bit_length()))


@triton.constexpr_function
def _first_program(sizes: tuple[int, ...], depths: tuple[int, ...], k: int) -> int:
    """The first that is for total k."""
    return sum(-(-size // _width(size, depth)) for size, depth in zip(sizes[:k], depths[:k], strict=True))


@triton.jit(do_not_specialize=["rows", "other_rows"])  # they differ from batch to batch
def _totals_kernel(
    parts, factors, totals, rows, other_rows,
    SIZES: tl.constexpr, DEPTHS: tl.constexpr, COLUMNS: tl.constexpr, OTHERS: tl.constexpr,
):  # fmt: skip
    """COLUMNS: of the factors, 1 without one. Totals from OTHERS on are sums of other_rows."""
    program = tl.program_id(0)
    for k in tl.static_range(len(SIZES)):
        if (program >= _first_program(SIZES, DEPTHS, k)) & (program < _first_program(SIZES, DEPTHS, k + 1)):
            DEPTH: tl.constexpr = DEPTHS[k]
            WIDTH: tl.constexpr = _width(SIZES[k], DEPTH)
            j = (program - _first_program(SIZES, DEPTHS, k)) * WIDTH + tl.arange(0, WIDTH)
            count = rows if k < OTHERS else other_rows
            sums = tl.zeros([DEPTH, WIDTH], parts[k].dtype.element_ty)
            for start in range(0, count, DEPTH):
                i = (start + tl.arange(0, DEPTH)[:, None]).to(tl.int64)
                inside = (i < count) & (j < SIZES[k])[None, :]
                of_part = i * (SIZES[k] // COLUMNS[k]) + (j // COLUMNS[k])[None, :]
                value = tl.load(parts[k] + of_part, mask=inside, other=0.0)
                if factors[k] is not None:
                    of_factor = i * COLUMNS[k] + (j % COLUMNS[k])[None, :]
                    value = value * tl.load(factors[k] + of_factor, mask=inside, other=0.0)
                sums += value
            total = tl.sum(sums, 0).to(totals[k].dtype.element_ty)
            tl.store(totals[k] + j, total, mask=j < SIZES[k])


def add_up(totals: list[Total], others: list[Total] | None = None) -> None:
    """Fill them all; parts, factors and totals are contiguous. Those of one list have as many rows."""
    every = [*totals, *(others or [])]
    sizes = tuple(total.to.numel() for total in every)
    depths = tuple(min(DEEPEST, next_power_of_2(total.part.shape[0])) for total in every)
    with on_device_of(every[0].part):
        _totals_kernel[(_first_program(sizes, depths, len(sizes)),)](
            tuple(total.part for total in every),
            tuple(total.factor for total in every),
            tuple(total.to for total in every),
            totals[0].part.shape[0] if totals else 0,
            others[0].part.shape[0] if others else 0,
            SIZES=sizes,
            DEPTHS=depths,
            COLUMNS=tuple(1 if total.factor is None else total.factor.shape[-1] for total in every),
            OTHERS=len(totals),
            num_warps=4,
        )
