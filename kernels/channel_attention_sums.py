"""channel_attention's sums over pixels: q k^T with the norms, and conv(a)^T b; the 3x3 is applied on load.

A program goes down strips of an image, row by row: a row of pixels is loaded three times (left, here, right; the L1
cache serves two of them) and added to the three rows of the output that it belongs to, of which two are carried along.
So an element costs three loads and conversions instead of the nine of a kernel without memory, and nine multiply-adds.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _three(image, row, column, channel, inside, H, W, stride: tl.constexpr):
    """Pixels left of, at and right of `column` [BW, 1] in a row of an image; nought outside. Each [BW, BC], float32."""
    here = image + (row * W).to(tl.int64) * stride + column * stride + channel
    at_row = row + 0 * column  # a block: a mask that is one number would be an integer to the interpreter
    inside = inside & (at_row >= 0) & (at_row < H)
    left = tl.load(here - stride, mask=inside & (column > 0) & (column <= W), other=0.0)
    middle = tl.load(here, mask=inside & (column < W), other=0.0)
    right = tl.load(here + stride, mask=inside & (column + 1 < W), other=0.0)
    return left.to(tl.float32), middle.to(tl.float32), right.to(tl.float32)


@triton.jit
def _tap(taps, tap: tl.constexpr, channel, inside):
    """The 3x3's weights at one tap; taps is its weight [channels, 9], read but once a program. [1, BC], float32."""
    return tl.load(taps + channel * 9 + tap, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def gram_kernel(
    u,  # [N, H * W, 3C]: the 1x1's output
    taps,  # [3C, 9]
    sums,  # [N, splits, C * D + 2C], float32: q k^T, squared norms of q's channels, of k's
    H,
    W,
    splits,
    C: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,  # of a strip
    BW: tl.constexpr,  # pixels across a strip
    BD: tl.constexpr,  # channels of q, and of k
    PRECISION: tl.constexpr,
):
    image = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    blocks = tl.cdiv(D, BD)
    head = tl.program_id(1) // (blocks * blocks)
    q_block = tl.program_id(1) // blocks % blocks
    k_block = tl.program_id(1) % blocks
    lane = tl.arange(0, BD)[None, :]
    in_q = q_block * BD + lane < D
    in_k = k_block * BD + lane < D
    q_channel = head * D + q_block * BD + lane
    k_channel = C + head * D + k_block * BD + lane
    q0, k0 = _tap(taps, 0, q_channel, in_q), _tap(taps, 0, k_channel, in_k)
    q1, k1 = _tap(taps, 1, q_channel, in_q), _tap(taps, 1, k_channel, in_k)
    q2, k2 = _tap(taps, 2, q_channel, in_q), _tap(taps, 2, k_channel, in_k)
    q3, k3 = _tap(taps, 3, q_channel, in_q), _tap(taps, 3, k_channel, in_k)
    q4, k4 = _tap(taps, 4, q_channel, in_q), _tap(taps, 4, k_channel, in_k)
    q5, k5 = _tap(taps, 5, q_channel, in_q), _tap(taps, 5, k_channel, in_k)
    q6, k6 = _tap(taps, 6, q_channel, in_q), _tap(taps, 6, k_channel, in_k)
    q7, k7 = _tap(taps, 7, q_channel, in_q), _tap(taps, 7, k_channel, in_k)
    q8, k8 = _tap(taps, 8, q_channel, in_q), _tap(taps, 8, k_channel, in_k)

    start = u + image.to(tl.int64) * H * W * 3 * C
    strips = tl.cdiv(W, BW)
    units = strips * tl.cdiv(H, ROWS)
    gram = tl.zeros([BD, BD], tl.float32)
    q_squares = tl.zeros([BW, BD], tl.float32)
    k_squares = tl.zeros([BW, BD], tl.float32)
    for unit in range(split * units // splits, (split + 1) * units // splits):
        column = unit % strips * BW + tl.arange(0, BW)[:, None]
        first = unit // strips * ROWS
        last = tl.minimum(first + ROWS, H)
        q_done = tl.zeros([BW, BD], tl.float32)
        q_next = tl.zeros([BW, BD], tl.float32)
        k_done = tl.zeros([BW, BD], tl.float32)
        k_next = tl.zeros([BW, BD], tl.float32)
        for step in range(last - first + 2):
            row = first - 1 + step
            a, b, c = _three(start, row, column, q_channel, in_q, H, W, 3 * C)
            q = q_done + a * q6 + b * q7 + c * q8  # of row - 1
            q_done = q_next + a * q3 + b * q4 + c * q5
            q_next = a * q0 + b * q1 + c * q2
            a, b, c = _three(start, row, column, k_channel, in_k, H, W, 3 * C)
            k = k_done + a * k6 + b * k7 + c * k8
            k_done = k_next + a * k3 + b * k4 + c * k5
            k_next = a * k0 + b * k1 + c * k2
            ours = (column < W) & (row + 0 * column > first)
            # Norms of what is multiplied, rounded as it is: else cosines, and what of a gradient is along q or k itself
            # and has to cancel (with one pixel, all of it), are wrong by the rounding.
            q = tl.where(ours, q, 0.0).to(u.dtype.element_ty)
            k = tl.where(ours, k, 0.0).to(u.dtype.element_ty)
            q_squares += q.to(tl.float32) * q.to(tl.float32)
            k_squares += k.to(tl.float32) * k.to(tl.float32)
            gram = tl.dot(tl.trans(q), k, gram, input_precision=PRECISION)

    out = sums + (image * splits + split).to(tl.int64) * (C * D + 2 * C)
    i = q_block * BD + tl.arange(0, BD)
    j = k_block * BD + tl.arange(0, BD)
    tl.store(out + (head * D + i[:, None]) * D + j[None, :], gram, mask=(i[:, None] < D) & (j[None, :] < D))
    out += C * D + head * D
    tl.store(out + i, tl.sum(q_squares, 0), mask=(i < D) & (k_block + 0 * i == 0))
    tl.store(out + C + j, tl.sum(k_squares, 0), mask=(j < D) & (q_block + 0 * j == 0))


@triton.jit
def outer_kernel(
    a,  # [images, H * W, a_stride], from the first of its K channels on
    taps,  # [channels, 9], likewise
    b,  # [images, H * W, M]
    centre,  # with TAPS: [images, H * W, a_stride], as a; what the 3x3 with these taps was applied to
    out,  # [groups, splits, K, M], float32: sums of conv(a) b^T over the images of a group
    dtaps,  # with TAPS: [splits, K, 9], float32: the gradient of the taps
    H,
    W,
    images,  # in a group
    splits,
    K: tl.constexpr,
    M: tl.constexpr,
    a_stride: tl.constexpr,
    FLIPPED: tl.constexpr,  # the 3x3's transpose: a is the gradient of its output
    TAPS: tl.constexpr,
    ROWS: tl.constexpr,
    BW: tl.constexpr,
    BK: tl.constexpr,
    BM: tl.constexpr,
    PRECISION: tl.constexpr,
):
    group = tl.program_id(0) // splits
    split = tl.program_id(0) % splits
    k_block = tl.program_id(1) // tl.cdiv(M, BM)
    m_block = tl.program_id(1) % tl.cdiv(M, BM)
    channel = k_block * BK + tl.arange(0, BK)[None, :]
    inside = channel < K
    m = m_block * BM + tl.arange(0, BM)[None, :]
    w0 = _tap(taps, 8 if FLIPPED else 0, channel, inside)
    w1 = _tap(taps, 7 if FLIPPED else 1, channel, inside)
    w2 = _tap(taps, 6 if FLIPPED else 2, channel, inside)
    w3 = _tap(taps, 5 if FLIPPED else 3, channel, inside)
    w4 = _tap(taps, 4, channel, inside)
    w5 = _tap(taps, 3 if FLIPPED else 5, channel, inside)
    w6 = _tap(taps, 2 if FLIPPED else 6, channel, inside)
    w7 = _tap(taps, 1 if FLIPPED else 7, channel, inside)
    w8 = _tap(taps, 0 if FLIPPED else 8, channel, inside)

    strips = tl.cdiv(W, BW)
    units = strips * tl.cdiv(H, ROWS)
    total = units.to(tl.int64) * images
    nought = tl.zeros([BW, BK], tl.float32)
    product = tl.zeros([BK, BM], tl.float32)
    d0, d1, d2, d3, d4, d5, d6, d7, d8 = nought, nought, nought, nought, nought, nought, nought, nought, nought
    for index in range(split * total // splits, (split + 1) * total // splits):
        image = group * images + index // units
        unit = (index % units).to(tl.int32)
        column = unit % strips * BW + tl.arange(0, BW)[:, None]
        first = unit // strips * ROWS
        last = tl.minimum(first + ROWS, H)
        from_a = a + image * H * W * a_stride
        from_b = b + image * H * W * M
        done = nought
        coming = nought
        # The centres at row - 1 and row, within the unit. Zeros of their own: of two variables that begin as one value
        # and are shifted one to the other, Triton takes the first for constant.
        above = tl.zeros([BW, BK], tl.float32)
        at = tl.zeros([BW, BK], tl.float32)
        for step in range(last - first + 2):
            row = first - 1 + step
            left, middle, right = _three(from_a, row, column, channel, inside, H, W, a_stride)
            value = done + left * w6 + middle * w7 + right * w8  # of row - 1
            done = coming + left * w3 + middle * w4 + right * w5
            coming = left * w0 + middle * w1 + right * w2
            pixel = ((row - 1) * W).to(tl.int64) * M + column * M
            other = tl.load(from_b + pixel + m, mask=(row + 0 * column > first) & (column < W) & (m < M), other=0.0)
            value = value.to(a.dtype.element_ty)
            product = tl.dot(tl.trans(value), other, product, input_precision=PRECISION)
            if TAPS:
                below_at = centre + image * H * W * a_stride + ((row + 1) * W).to(tl.int64) * a_stride
                below = tl.load(
                    below_at + column * a_stride + channel,
                    mask=inside & (row + 1 + 0 * column < last) & (column < W),
                    other=0.0,
                ).to(tl.float32)
                d0 += left * below
                d1 += middle * below
                d2 += right * below
                d3 += left * at
                d4 += middle * at
                d5 += right * at
                d6 += left * above
                d7 += middle * above
                d8 += right * above
                above = at
                at = below

    k = k_block * BK + tl.arange(0, BK)
    out += tl.program_id(0).to(tl.int64) * K * M
    tl.store(out + k[:, None] * M + m, product, mask=(k[:, None] < K) & (m < M))
    if TAPS:
        to = dtaps + (split * K + k) * 9
        first_of_m = (k < K) & (m_block + 0 * k == 0)
        # a is the gradient at p + (dy, dx) beside the centre at p: it came through the opposite tap.
        tl.store(to + 8, tl.sum(d0, 0), mask=first_of_m)
        tl.store(to + 7, tl.sum(d1, 0), mask=first_of_m)
        tl.store(to + 6, tl.sum(d2, 0), mask=first_of_m)
        tl.store(to + 5, tl.sum(d3, 0), mask=first_of_m)
        tl.store(to + 4, tl.sum(d4, 0), mask=first_of_m)
        tl.store(to + 3, tl.sum(d5, 0), mask=first_of_m)
        tl.store(to + 2, tl.sum(d6, 0), mask=first_of_m)
        tl.store(to + 1, tl.sum(d7, 0), mask=first_of_m)
        tl.store(to + 0, tl.sum(d8, 0), mask=first_of_m)
