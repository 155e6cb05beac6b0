"""skaf_gate's passes over its two maps: the convolution, its transpose, and the sums for its weight and bias."""

from __future__ import annotations

import triton
import triton.language as tl

from ._gates import located


@triton.jit
def places(first, height, width, PIXELS: tl.constexpr):
    """Of the pixels from `first` on: rows, columns, and where they lie in map 0; map 1 is height * width further.

    The place is a scalar (int64) and what a pixel adds to it (int32).
    """
    area = height * width
    image, further, y, x = located(first, height, width, PIXELS)
    start = first - image * area
    return y, x, image * 2 * area + start, tl.arange(0, PIXELS) + further * area


@triton.jit
def convolved(
    maps,
    weight,
    first,
    pixels,
    height,
    width,
    K: tl.constexpr,
    STRIDES: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    PIXELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """The two maps, or with TRANSPOSED their gradients, convolved around a run of pixels: two vectors [PIXELS].

    weight [2 to, 2 from, K, K] is of any strides; transposed, its taps are turned round and its maps exchanged.
    """
    y, x, base, at = places(first, height, width, PIXELS)
    live = first + tl.arange(0, PIXELS) < pixels
    maps += base
    second = maps + height * width
    to0 = tl.zeros((PIXELS,), ACC)
    to1 = tl.zeros((PIXELS,), ACC)
    W01: tl.constexpr = STRIDES[0 if TRANSPOSED else 1]
    W10: tl.constexpr = STRIDES[1 if TRANSPOSED else 0]
    for ky in range(K):
        row = y + (ky - K // 2)
        live_row = live & (row >= 0) & (row < height)
        for kx in tl.static_range(K):
            column = x + (kx - K // 2)
            inside = live_row & (column >= 0) & (column < width)
            neighbour = at + ((ky - K // 2) * width + kx - K // 2)
            from0 = tl.load(maps + neighbour, inside, 0).to(ACC)
            from1 = tl.load(second + neighbour, inside, 0).to(ACC)
            tap = weight + (K - 1 - ky if TRANSPOSED else ky) * STRIDES[2]
            tap += (K - 1 - kx if TRANSPOSED else kx) * STRIDES[3]
            to0 += from0 * tl.load(tap).to(ACC) + from1 * tl.load(tap + W01).to(ACC)
            to1 += from0 * tl.load(tap + W10).to(ACC) + from1 * tl.load(tap + W01 + W10).to(ACC)
    return to0, to1


@triton.jit
def transposed(
    dz,
    weight,
    dm,
    pixels,
    height,
    width,
    K: tl.constexpr,
    STRIDES: tl.constexpr,
    PIXELS: tl.constexpr,
    ACC: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * PIXELS
    d0, d1 = convolved(dz, weight, first, pixels, height, width, K, STRIDES, True, PIXELS, ACC)
    _, _, base, at = places(first, height, width, PIXELS)
    live = first + tl.arange(0, PIXELS) < pixels
    tl.store(dm + base + at, d0, live)
    tl.store(dm + base + height * width + at, d1, live)


@triton.jit
def weight_sums(
    dz,
    m,
    partial,
    pixels,
    steps,
    height,
    width,
    K: tl.constexpr,
    STEP: tl.constexpr,
    TAPS: tl.constexpr,
    ACC: tl.constexpr,
):
    """Sums over a run of steps * STEP pixels: partial [programs][2 out][2 in][K][K] and two for the bias.

    Lanes lie along the pixels and keep their own sums of TAPS taps until the end of the run.
    """
    tap = tl.program_id(1) * TAPS + tl.arange(0, TAPS)
    known = tap < K * K
    down = tap // K - K // 2
    right = tap % K - K // 2
    map2 = height * width
    sum00 = tl.zeros((STEP, TAPS), ACC)
    sum01 = tl.zeros((STEP, TAPS), ACC)
    sum10 = tl.zeros((STEP, TAPS), ACC)
    sum11 = tl.zeros((STEP, TAPS), ACC)
    bias0 = tl.zeros((STEP,), ACC)
    bias1 = tl.zeros((STEP,), ACC)
    for step in range(steps):
        first = (tl.program_id(0).to(tl.int64) * steps + step) * STEP
        y, x, base, at = places(first, height, width, STEP)
        live = first + tl.arange(0, STEP) < pixels
        d0 = tl.load(dz + base + at, live, 0)
        d1 = tl.load(dz + base + map2 + at, live, 0)
        row = y[:, None] + down[None, :]
        column = x[:, None] + right[None, :]
        inside = live[:, None] & known[None, :] & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        neighbour = at[:, None] + (down * width + right)[None, :]
        from0 = tl.load(m + base + neighbour, inside, 0).to(ACC)
        from1 = tl.load(m + base + map2 + neighbour, inside, 0).to(ACC)
        sum00 += d0[:, None] * from0
        sum01 += d0[:, None] * from1
        sum10 += d1[:, None] * from0
        sum11 += d1[:, None] * from1
        bias0 += d0
        bias1 += d1
    partial += tl.program_id(0).to(tl.int64) * (4 * K * K + 2)
    tl.store(partial + tap, tl.sum(sum00, 0), known)
    tl.store(partial + K * K + tap, tl.sum(sum01, 0), known)
    tl.store(partial + 2 * K * K + tap, tl.sum(sum10, 0), known)
    tl.store(partial + 3 * K * K + tap, tl.sum(sum11, 0), known)
    if tl.program_id(1) == 0:
        tl.store(partial + 4 * K * K, tl.sum(bias0, 0))
        tl.store(partial + 4 * K * K + 1, tl.sum(bias1, 0))


@triton.jit
def add_sums(
    partial,
    dweight,
    dbias,
    programs,
    K: tl.constexpr,
    STRIDES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ACC: tl.constexpr,
):
    """partial [programs][4 * K * K + 2] added over the programs: dweight [2, 2, K, K] of any strides, dbias [2]."""
    COUNT: tl.constexpr = 4 * K * K
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < COUNT + 2
    total = tl.zeros((ROWS, COLUMNS), ACC)
    for start in range(0, programs, ROWS):
        row = start + tl.arange(0, ROWS)
        here = (row < programs)[:, None] & known[None, :]
        total += tl.load(partial + row[:, None] * (COUNT + 2) + column[None, :], here, 0)
    of_column = tl.sum(total, 0)
    maps, y, x = column // (K * K), column // K % K, column % K
    at = maps // 2 * STRIDES[0] + maps % 2 * STRIDES[1] + y * STRIDES[2] + x * STRIDES[3]
    tl.store(dweight + at, of_column, column < COUNT)
    tl.store(dbias + column - COUNT, of_column, known & (column >= COUNT))
