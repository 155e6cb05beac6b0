"""Four rows of a depthwise convolution in registers, and what is made of them in RDFE's front."""

from __future__ import annotations

import triton
import triton.language as tl

from .multiscale_dwconv_filter import first_row

ROWS = 4  # that four_rows gives


@triton.jit
def four_rows(
    x,
    packed,
    constant,
    n,
    first,
    column,
    channel,
    height,
    width,
    C: tl.constexpr,
    SIZES: tl.constexpr,
    K: tl.constexpr,
    TURNED: tl.constexpr,
    ADD: tl.constexpr,
):
    """Rows first ... first + 3 of image n: sum over branch K's taps of weight[tap, c] * x[n, p + tap - SIZE // 2, c].

    column and channel are integer tiles that broadcast to the shape of a row of the result: [pixels, 1] and
    [1, channels], or two of one length. ADD: `constant`, a tile like channel, is added to x inside the image.
    TURNED: by half a turn, the transposed convolution. A value is loaded once for each column of taps and meets up to
    four rows of sums, a weight once; both are what keeps loads and conversions below the multiplications.
    """
    SIZE: tl.constexpr = SIZES[K]
    REACH: tl.constexpr = SIZE // 2
    weight = packed + first_row(SIZES, K) * C
    image = x + n.to(tl.int64) * height * width * C
    held = channel < C
    sum0 = tl.zeros_like(column * channel).to(tl.float32)
    sum1, sum2, sum3 = sum0, sum0, sum0
    for tx in range(SIZE):
        at = column + tx - REACH
        inside = held & (at >= 0) & (at < width)
        offset = at * C + channel
        w0 = tl.zeros_like(channel).to(tl.float32)
        w1, w2, w3 = w0, w0, w0
        for i in tl.static_range(SIZE + 3):
            row = first + i - REACH
            met = inside & (row >= 0) & (row < height)
            value = tl.load(image + row.to(tl.int64) * (width * C) + offset, mask=met, other=0).to(tl.float32)
            if ADD:
                value = tl.where(met, value + constant, 0)
            w3 = w2
            w2 = w1
            w1 = w0
            if i < SIZE:
                tap = (SIZE - 1 - i) * SIZE + SIZE - 1 - tx if TURNED else i * SIZE + tx
                w0 = tl.load(weight + tap * C + channel, mask=held, other=0)
                sum0 += value * w0
            if i >= 1 and i - 1 < SIZE:
                sum1 += value * w1
            if i >= 2 and i - 2 < SIZE:
                sum2 += value * w2
            if i >= 3:
                sum3 += value * w3
    return sum0, sum1, sum2, sum3


@triton.jit
def input_gradient(
    df,
    constant,
    packed,
    residual,
    dy,
    height,
    width,
    down,
    blocks,
    C: tl.constexpr,
    SIZES: tl.constexpr,
    LANES: tl.constexpr,
):
    """dy = sum over the branches of DW_k^T(df_k + constant[n, k, channel]) + residual.

    A flat axis of pixel and channel: no lane idles whatever C is.
    """
    program = tl.program_id(0)
    lane = program % blocks * LANES + tl.arange(0, LANES)
    row = program // blocks % down * 4
    n = (program // (blocks * down)).to(tl.int64)
    column, channel = lane // C, lane % C
    total0 = tl.zeros([LANES], tl.float32)
    total1, total2, total3 = total0, total0, total0
    for k in tl.static_range(len(SIZES)):
        added = tl.load(constant + (n * len(SIZES) + k) * C + channel)
        r0, r1, r2, r3 = four_rows(
            df[k], packed, added, n, row, column, channel, height, width, C, SIZES, k, TURNED=True, ADD=True
        )
        total0 += r0
        total1 += r1
        total2 += r2
        total3 += r3
    for i in tl.static_range(4):
        total = total0 if i == 0 else (total1 if i == 1 else (total2 if i == 2 else total3))
        at = (n * height + row + i) * width * C + lane
        inside = (row + i < height) & (lane < width * C)
        total += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
        tl.store(dy + at, total.to(dy.dtype.element_ty), mask=inside)
