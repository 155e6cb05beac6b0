"""norm_act_conv's gradient of its weight: a GEMM over pixels, split into parts that a second stage adds in order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import dot_precision
from .norm_act_conv_plan import Plan
from .norm_act_conv_sums import WeightSums
from .norm_act_conv_tiles import activated, pixels_of

# About so many programs, if the parts' sums stay small beside the maps: 8 MiB.
PROGRAMS = 1024
PARTIAL = 1 << 21
LEAST_TILES = 4  # of a part


@triton.jit
def _weight_gradient(
    x, scale, shift, g, partial, slope, count, height, width, cells_h, cells_w, g_height, g_width, low_h, high_h, low_w,
    high_w, tiles, per_split, HALO: tl.constexpr, C: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr,
    STEP: tl.constexpr, PHASES: tl.constexpr, REFLECT: tl.constexpr, BM: tl.constexpr, BR: tl.constexpr,
    BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """partial [splits][phases][TAPS * TAPS][C][K]: sums over a split's pixels of activation times gradient."""
    DEPTH: tl.constexpr = TAPS * TAPS * C
    ACROSS: tl.constexpr = (K + BN - 1) // BN
    DOWN: tl.constexpr = (DEPTH + BR - 1) // BR
    # Neighbours work on the same pixels, which they share in the second-level cache.
    pid = tl.program_id(0)
    n = pid % ACROSS * BN + tl.arange(0, BN)
    r = pid // ACROSS % DOWN * BR + tl.arange(0, BR)
    part = pid // (ACROSS * DOWN)
    phase = part % (PHASES * PHASES)
    phase_h, phase_w = phase // PHASES, phase % PHASES
    split = part // (PHASES * PHASES)
    first_tile = (split * per_split).to(tl.int64)
    tap, channel, used = (r // C)[None, :], (r % C)[None, :], (r < DEPTH)[None, :]
    acc = tl.zeros([BR, BN], tl.float32)
    for step in range(tl.minimum(per_split, tiles - split * per_split)):
        image, first, passed, row, column, live = pixels_of(first_tile + step, count, cells_h, cells_w, BM)
        exists = (tl.arange(0, BM) < live)[:, None]
        here = x + (image * height + STEP * first) * width * C
        above = (passed * height - STEP * first)[:, None]
        a = activated(
            here, scale, shift, slope, above, row[:, None], column[:, None], exists, tap, channel, used, height, width,
            low_h, high_h, low_w, high_w, 1 - phase_h, 1 - phase_w, C, TAPS, STEP, REFLECT,
        )  # fmt: skip
        out_row = passed * g_height + PHASES * (row - first) + phase_h
        pixel = out_row * g_width + PHASES * column + phase_w
        there = g + ((image * g_height + PHASES * first + HALO) * g_width + HALO) * K
        d = tl.load(there + pixel[:, None] * K + n[None, :], mask=exists & (n < K)[None, :], other=0.0)
        acc = tl.dot(tl.trans(a), d, acc, input_precision=PRECISION)
    at = partial + part.to(tl.int64) * DEPTH * K + r[:, None] * K + n[None, :]
    tl.store(at, acc, mask=(r < DEPTH)[:, None] & (n < K)[None, :])


def weight_gradient(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, dweight: Tensor, slope: float, plan: Plan
) -> WeightSums:
    """Leaves the sums for dweight [K, C, 3, 3]; g [N, H', W', K], with reflection one pixel larger on each side."""
    n, c, h, w = x.shape
    k, rows, columns = dweight.shape[0], plan.rows, plan.columns
    depth, phases = plan.taps * plan.taps * c, plan.phases * plan.phases
    bm, br, bn, warps = _blocks(x, k)
    count = n * rows.cells * columns.cells
    tiles = triton.cdiv(count, bm)
    blocks = phases * triton.cdiv(depth, br) * triton.cdiv(k, bn)
    wanted = min(PROGRAMS // blocks, PARTIAL // (phases * depth * k), tiles // LEAST_TILES)
    per_split = triton.cdiv(tiles, max(wanted, 1))
    splits = triton.cdiv(tiles, per_split)
    partial = x.new_empty((splits, phases, depth, k), dtype=torch.float32)
    _weight_gradient[(splits * blocks,)](
        x, scale, shift, g, partial, slope, count, h, w, rows.cells, columns.cells, g.shape[1], g.shape[2], rows.low,
        rows.high, columns.low, columns.high, tiles, per_split, HALO=1 if plan.reflect else 0, C=c, K=k, TAPS=plan.taps,
        STEP=plan.step, PHASES=plan.phases, REFLECT=plan.reflect, BM=bm, BR=br, BN=bn,
        PRECISION=dot_precision(), num_warps=warps, num_stages=2,
    )  # fmt: skip
    return WeightSums(partial, dweight, splits)


def _blocks(x: Tensor, columns: int) -> tuple[int, int, int, int]:
    """Pixels at a time, rows and columns of a block of the gradient, and warps."""
    bn = min(max(triton.next_power_of_2(columns), 16), 64)
    return (16, 64, bn, 8) if x.element_size() == 4 else (32, 128, bn, 4)
