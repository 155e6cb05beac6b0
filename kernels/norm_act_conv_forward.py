"""norm_act_conv's forward kernels: the implicit GEMM with its moments' partial sums, and their second stage."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import dot_precision
from .norm_act_conv_plan import Plan
from .norm_act_conv_tiles import activated, pixels_of, tile_of, tuned


@tuned(["C", "K", "TAPS", "STEP", "PHASES", "BM", "BN"])
@triton.jit
def _forward(
    x, scale, shift, weight, y, partial, slope, count, height, width, cells_h, cells_w, out_h, out_w,
    low_h, high_h, low_w, high_w, tiles, C: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, STEP: tl.constexpr,
    PHASES: tl.constexpr, REFLECT: tl.constexpr, MOMENTS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PRECISION: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """y [N, out_h, out_w, K]; partial [2][K][tiles * phases]: mean, and sum of squares about it, of a tile."""
    BLOCKS: tl.constexpr = (K + BN - 1) // BN
    DEPTH: tl.constexpr = TAPS * TAPS * C
    pid = tl.program_id(0)
    part = pid // BLOCKS
    n = pid % BLOCKS * BN + tl.arange(0, BN)
    phase = part % (PHASES * PHASES)
    phase_h, phase_w = phase // PHASES, phase % PHASES
    tile = part // (PHASES * PHASES)
    image, first, passed, row, column, live = pixels_of(tile, count, cells_h, cells_w, BM)
    exists = tl.arange(0, BM) < live
    here = x + (image * height + STEP * first) * width * C
    above = passed * height - STEP * first
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, DEPTH, BK):
        k = start + tl.arange(0, BK)
        if C % BK == 0:
            tap = start // C
            channel = k - tap * C
        else:
            tap = (k // C)[None, :]
            channel = k % C
        a = activated(
            here, scale, shift, slope, above[:, None], row[:, None], column[:, None], exists[:, None], tap,
            channel[None, :], (k < DEPTH)[None, :], height, width, low_h, high_h, low_w, high_w, 1 - phase_h,
            1 - phase_w, C, TAPS, STEP, REFLECT,
        )  # fmt: skip
        w = weight + (phase * DEPTH + k[:, None]) * K + n[None, :]
        w = tl.load(w, mask=(k < DEPTH)[:, None] & (n < K)[None, :], other=0.0)
        acc = tl.dot(a, w, acc, input_precision=PRECISION)
    rounded = acc.to(y.dtype.element_ty)
    there = y + (image * out_h + PHASES * first) * out_w * K
    out_row = passed * out_h + PHASES * (row - first) + phase_h
    offset = (out_row * out_w + PHASES * column + phase_w)[:, None] * K + n[None, :]
    tl.store(there + offset, rounded, mask=exists[:, None] & (n < K)[None, :])
    if MOMENTS:
        value = tl.where(exists[:, None], rounded.to(tl.float32), 0.0)
        mean = tl.sum(value, 0) / live
        value = tl.where(exists[:, None], value - mean[None, :], 0.0)
        squares = tl.sum(value * value, 0)
        parts = tiles * PHASES * PHASES
        at = partial + n.to(tl.int64) * parts + part
        tl.store(at, mean, mask=n < K)
        tl.store(at + tl.cast(parts, tl.int64) * K, squares, mask=n < K)


@triton.jit
def _moments(partial, mean, var, count, parts, PHASES: tl.constexpr, BM: tl.constexpr, BLOCK: tl.constexpr):
    """Chan's formula for all parts at once, a channel a program: the mean of means, then squares about it."""
    k = tl.program_id(0)
    channels = tl.num_programs(0)
    means = partial + k.to(tl.int64) * parts
    squares = means + channels.to(tl.int64) * parts
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        pixels = tl.minimum(count - (part // PHASES).to(tl.int64) * BM, BM).to(tl.float32)
        total += tl.where(part < parts, pixels, 0.0) * tl.load(means + part, mask=part < parts, other=0.0)
    n = (tl.cast(count, tl.int64) * PHASES).to(tl.float32)
    m = tl.sum(total, 0) / n
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        pixels = tl.minimum(count - (part // PHASES).to(tl.int64) * BM, BM).to(tl.float32)
        distance = tl.load(means + part, mask=part < parts, other=0.0) - m
        between = tl.where(part < parts, pixels, 0.0) * distance * distance
        total += between + tl.load(squares + part, mask=part < parts, other=0.0)
    tl.store(mean + k, m)
    tl.store(var + k, tl.sum(total, 0) / n)


def forward(
    x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, slope: float, plan: Plan, moments: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """x channels_last, weight `packed_for` it, [taps, C, K]; y, mean and var as the schema says."""
    n, c, h, w = x.shape
    k, rows, columns = weight.shape[2], plan.rows, plan.columns
    y = x.new_empty((n, rows.out, columns.out, k)).permute(0, 3, 1, 2)
    count, phases = n * rows.cells * columns.cells, plan.phases * plan.phases
    bm, bn = tile_of(x, k, count * phases)
    tiles = triton.cdiv(count, bm)
    kept = k if moments else 0
    partial = x.new_empty((2, kept, tiles * phases), dtype=torch.float32)
    mean, var = partial.new_empty(kept), partial.new_empty(kept)
    _forward[(tiles * phases * triton.cdiv(k, bn),)](
        x, scale, shift, weight, y, partial, slope, count, h, w,
        rows.cells, columns.cells, rows.out, columns.out, rows.low, rows.high, columns.low, columns.high, tiles,
        C=c, K=k, TAPS=plan.taps, STEP=plan.step, PHASES=plan.phases, REFLECT=plan.reflect, MOMENTS=moments,
        BM=bm, BN=bn, PRECISION=dot_precision(),
    )  # fmt: skip
    if moments:
        _moments[(k,)](partial, mean, var, count, tiles * phases, PHASES=phases, BM=bm, BLOCK=1024)
    return y, mean, var
