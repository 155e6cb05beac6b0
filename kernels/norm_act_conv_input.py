"""norm_act_conv's gradient of its input: dy with what comes through the moments, then the transposed convolution."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import dot_precision
from .norm_act_conv_plan import Plan
from .norm_act_conv_sums import ChannelSums
from .norm_act_conv_tiles import pixels_of, tile_of, tuned

BLOCK = 1024
BORDER = 256  # fewer of a border, whose elements take many registers: more programs on a multiprocessor


@triton.jit
def _through_moments(dy, y, mean, dmean, dvar, at, k, exists, n, MOMENTS: tl.constexpr):
    """dy + dmean / n + 2 * (y - mean) * dvar / n, zero where nothing exists."""
    value = tl.load(dy + at, mask=exists, other=0.0).to(tl.float32)
    if MOMENTS:
        distance = tl.load(y + at, mask=exists, other=0.0).to(tl.float32) - tl.load(mean + k, mask=exists, other=0.0)
        slope = tl.load(dvar + k, mask=exists, other=0.0) * (2.0 / n)
        value += tl.where(exists, tl.load(dmean + k, mask=exists, other=0.0) / n + slope * distance, 0.0)
    return value


@triton.jit
def _inside(
    dy, y, mean, dmean, dvar, to, pid, n, elements, out_h, out_w, K: tl.constexpr, MOMENTS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of dy's own elements, in vectors: eight channels from a multiple of eight are neighbours in `to` too."""
    start = pid.to(tl.int64) * BLOCK
    exists = tl.arange(0, BLOCK) < tl.minimum(elements - start, BLOCK).to(tl.int32)
    line = out_w * K
    top = start // line  # the row that the first element is in, of all images'
    image = top // out_h
    first = (top - image * out_h).to(tl.int32)
    inside = (start - top * line).to(tl.int32) + tl.arange(0, BLOCK)
    passed = inside // line
    inside -= passed * line
    at = start + tl.arange(0, BLOCK)
    k = (at % K).to(tl.int32)
    value = _through_moments(dy, y, mean, dmean, dvar, at, k, exists, n, MOMENTS)
    passed += 2 * ((first + passed) // out_h)  # with the border's between images
    here = to + ((image * (out_h + 2) + first + 1) * (out_w + 2) + 1) * K
    tl.store(here + passed * ((out_w + 2) * K) + inside, value.to(to.dtype.element_ty), mask=exists)


@triton.jit
def _border(
    dy, y, mean, dmean, dvar, to, pid, n, elements, out_h, out_w, also_top, also_bottom, also_left, also_right,
    K: tl.constexpr, MOMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A block of the borders: of an image the row before it, the one behind it, and the ends of the rows between."""
    start = pid.to(tl.int64) * BLOCK
    exists = tl.arange(0, BLOCK) < tl.minimum(elements - start, BLOCK).to(tl.int32)
    before = start // K  # pixels of borders, of all images'
    inside = (start - before * K).to(tl.int32) + tl.arange(0, BLOCK)
    k = inside % K
    line = out_w + 2
    ring = 2 * (line + out_h)
    first = before // ring
    pixel = (before - first * ring).to(tl.int32) + inside // K
    passed = pixel // ring
    image = first + passed
    pixel -= passed * ring
    end = pixel - 2 * line
    row = tl.where(pixel < line, -1, tl.where(end < 0, out_h, end // 2))
    column = tl.where(end >= 0, tl.where(end % 2 == 0, -1, out_w), tl.where(pixel < line, pixel, pixel - line) - 1)
    there = ((image * (out_h + 2) + row + 1) * line + column + 1) * K + k
    row_too = tl.where(row < 0, also_top, tl.where(row == out_h, also_bottom, -1))
    column_too = tl.where(column < 0, also_left, tl.where(column == out_w, also_right, -1))
    row, column = tl.minimum(tl.maximum(row, 0), out_h - 1), tl.minimum(tl.maximum(column, 0), out_w - 1)
    value = tl.zeros([BLOCK], tl.float32)
    for way in range(4):
        r, c = tl.where(way >= 2, row_too, row), tl.where(way % 2 == 1, column_too, column)
        used = exists & (r >= 0) & (r < out_h) & (c >= 0) & (c < out_w)
        at = ((image * out_h + r) * out_w + c) * K + k
        value += _through_moments(dy, y, mean, dmean, dvar, at, k, used, n, MOMENTS)
    tl.store(to + there, value.to(to.dtype.element_ty), mask=exists)


@triton.jit
def _output_gradient(
    dy, y, mean, dmean, dvar, to, n, elements, of_borders, inner, out_h, out_w, also_top, also_bottom, also_left,
    also_right, K: tl.constexpr, MOMENTS: tl.constexpr, FOLD: tl.constexpr, BLOCK: tl.constexpr, BORDER: tl.constexpr,
):  # fmt: skip
    """to [N, out_h, out_w, K], with FOLD two rows and two columns more: those that Axis tells of.

    The first `inner` programs write what is dy's own, the others the border.
    """
    pid = tl.program_id(0)
    if FOLD:
        if pid < inner:
            _inside(dy, y, mean, dmean, dvar, to, pid, n, elements, out_h, out_w, K, MOMENTS, BLOCK)
        else:
            _border(
                dy, y, mean, dmean, dvar, to, pid - inner, n, of_borders, out_h, out_w, also_top, also_bottom,
                also_left, also_right, K, MOMENTS, BORDER,
            )  # fmt: skip
    else:
        start = pid.to(tl.int64) * BLOCK
        exists = tl.arange(0, BLOCK) < tl.minimum(elements - start, BLOCK).to(tl.int32)
        at = start + tl.arange(0, BLOCK)
        value = _through_moments(dy, y, mean, dmean, dvar, at, (at % K).to(tl.int32), exists, n, MOMENTS)
        tl.store(to + at, value.to(to.dtype.element_ty), mask=exists)


@triton.jit
def _folded(index, pixel, tap, taps, size, low, high, FOLD: tl.constexpr):
    """Where the tap of a pixel reads dy along an axis, and whether there is something."""
    inside = (index >= 0) & (index < size)
    if FOLD:
        before, behind = (pixel == low) & (tap == taps - 1), (pixel == high) & (tap == 0)
        index = tl.where(before, 0, tl.where(behind, size + 1, index + 1))
        inside = inside | before | behind
    return index, inside


@tuned(["C", "K", "TAPS_H", "TAPS_W", "STEP_H", "PHASES_H", "BM", "BN"])
@triton.jit
def _input_gradient(
    g, weight, x, scale, shift, dx, partial, slope, count, height, width, cells_h, cells_w, out_h, out_w, low_h, high_h,
    low_w, high_w, tiles, C: tl.constexpr, K: tl.constexpr, PHASES_H: tl.constexpr, PHASES_W: tl.constexpr,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, STEP_H: tl.constexpr, STEP_W: tl.constexpr, BEFORE_H: tl.constexpr,
    BEFORE_W: tl.constexpr, FOLD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PRECISION: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    """dx as x; partial [2][C][tiles * phases]: sums of a tile for scale and shift. g as _output_gradient makes it."""
    BLOCKS: tl.constexpr = (C + BN - 1) // BN
    pid = tl.program_id(0)
    part = pid // BLOCKS
    n = pid % BLOCKS * BN + tl.arange(0, BN)
    phase_h, phase_w = part % (PHASES_H * PHASES_W) // PHASES_W, part % PHASES_W
    # Of three taps, phase 0 of a strided axis has one and phase 1 two.
    taps_h = TAPS_H if PHASES_H == 1 else 1 + phase_h
    taps_w = TAPS_W if PHASES_W == 1 else 1 + phase_w
    depth = taps_h * taps_w * K
    weight += (phase_h * TAPS_W + taps_h * phase_w) * K * C
    image, first, passed, row, column, live = pixels_of(part // (PHASES_H * PHASES_W), count, cells_h, cells_w, BM)
    pixel_h, pixel_w = PHASES_H * row + phase_h, PHASES_W * column + phase_w
    exists = (tl.arange(0, BM) < live) & (pixel_h < height) & (pixel_w < width)
    HALO: tl.constexpr = 2 if FOLD else 0
    line, lines = out_w + HALO, out_h + HALO
    here = g + (image * lines + STEP_H * first) * line * K
    above = passed * lines - STEP_H * first
    acc = tl.zeros([BM, BN], tl.float32)
    for start in range(0, depth, BK):
        k = start + tl.arange(0, BK)
        if K % BK == 0:
            tap = start // K
            channel = k - tap * K
        else:
            tap = (k // K)[None, :]
            channel = k % K
        tap_h, tap_w = tap // taps_w, tap % taps_w
        index = STEP_H * row[:, None] + tap_h - BEFORE_H
        r, inside_h = _folded(index, pixel_h[:, None], tap_h, taps_h, out_h, low_h, high_h, FOLD)
        index = STEP_W * column[:, None] + tap_w - BEFORE_W
        c, inside_w = _folded(index, pixel_w[:, None], tap_w, taps_w, out_w, low_w, high_w, FOLD)
        offset = ((above[:, None] + r) * line + c) * K + channel[None, :]
        used = exists[:, None] & inside_h & inside_w & (k < depth)[None, :]
        w = weight + k[:, None] * C + n[None, :]
        w = tl.load(w, mask=(k < depth)[:, None] & (n < C)[None, :], other=0.0)
        acc = tl.dot(tl.load(here + offset, mask=used, other=0.0), w, acc, input_precision=PRECISION)
    start_of = (image * height + PHASES_H * first) * width * C
    pixel = (passed * height + pixel_h - PHASES_H * first) * width + pixel_w
    offset, used = pixel[:, None] * C + n[None, :], exists[:, None] & (n < C)[None, :]
    s = tl.load(scale + n, mask=n < C, other=0.0).to(tl.float32)[None, :]
    b = tl.load(shift + n, mask=n < C, other=0.0).to(tl.float32)[None, :]
    value = tl.load(x + start_of + offset, mask=used, other=0.0).to(tl.float32)
    acc = tl.where(value * s + b > 0, acc, acc * slope)
    tl.store(dx + start_of + offset, (acc * s).to(dx.dtype.element_ty), mask=used)
    parts = tiles * PHASES_H * PHASES_W
    at = partial + n.to(tl.int64) * parts + part
    acc = tl.where(used, acc, 0.0)
    tl.store(at, tl.sum(acc * value, 0), mask=n < C)
    tl.store(at + tl.cast(parts, tl.int64) * C, tl.sum(acc, 0), mask=n < C)


def output_gradient(dy: Tensor, through: tuple[Tensor, Tensor, Tensor, Tensor] | None, plan: Plan) -> Tensor:
    """dy [N, K, H', W'] channels_last -> [N, H' or H' + 2, W' or W' + 2, K]; dy itself where there is nothing to add.

    through: y channels_last, mean, dmean, dvar.
    """
    n, k, h, w = dy.shape
    if through is None and not plan.reflect:
        return dy.permute(0, 2, 3, 1)
    halo = 2 if plan.reflect else 0
    to = dy.new_empty((n, h + halo, w + halo, k))
    y, mean, dmean, dvar = through or (dy, dy, dy, dy)
    rows, columns = plan.rows, plan.columns
    inner, of_borders = triton.cdiv(dy.numel(), BLOCK), to.numel() - dy.numel()
    _output_gradient[(inner + triton.cdiv(of_borders, BORDER),)](
        dy, y, mean, dmean, dvar, to, float(n * h * w), dy.numel(), of_borders, inner, h, w, rows.also_low,
        rows.also_high, columns.also_low, columns.also_high, K=k, MOMENTS=through is not None, FOLD=plan.reflect,
        BLOCK=BLOCK, BORDER=BORDER,
    )  # fmt: skip
    return to


def input_gradient(
    g: Tensor, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, slope: float, plan: Plan, dx: Tensor
) -> ChannelSums:
    """Writes dx, channels_last as x; leaves the sums for scale and shift.

    weight: `packed_for` the gradient of the input, [taps, K, C].
    """
    n, c, h, w = x.shape
    rows, columns = plan.rows, plan.columns
    phases_h, phases_w = len(rows.back_sets), len(columns.back_sets)
    cells_h, cells_w = triton.cdiv(h, phases_h), triton.cdiv(w, phases_w)
    count, phases = n * cells_h * cells_w, phases_h * phases_w
    bm, bn = tile_of(x, c, count * phases)
    tiles = triton.cdiv(count, bm)
    partial = x.new_empty((2, c, tiles * phases), dtype=torch.float32)
    _input_gradient[(tiles * phases * triton.cdiv(c, bn),)](
        g, weight, x, scale, shift, dx, partial, slope, count, h, w, cells_h, cells_w,
        rows.out, columns.out, rows.fold_low, rows.fold_high, columns.fold_low, columns.fold_high, tiles,
        C=c, K=weight.shape[1], PHASES_H=phases_h, PHASES_W=phases_w, TAPS_H=sum(map(len, rows.back_sets)),
        TAPS_W=sum(map(len, columns.back_sets)), STEP_H=rows.back_step, STEP_W=columns.back_step,
        BEFORE_H=rows.back_before, BEFORE_W=columns.back_before, FOLD=plan.reflect, BM=bm, BN=bn,
        PRECISION=dot_precision(),
    )  # fmt: skip
    return ChannelSums(partial, scale.new_empty(c), shift.new_empty(c), tiles * phases)
