"""channel_attention's products with matrices of channels, the 3x3 applied on load: out = conv3x3(a) matrix.

Serves four times: y = v M^T, the gradients of q and k (one matrix a head), of v (no 3x3) and of x (3x3 transposed, then
the 1x1's weight). A program makes all the outputs (up to 256) of a tile of pixels, so that the 3x3 is computed once; it
takes the channels 32 at a time, and the 3x3 of these from nine loads, of which L1 serves eight.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def project_kernel(
    a,  # [N, H * W, a_stride], from its first channel on
    taps,  # [9, all_channels], likewise; with CONV
    matrix,  # element [n, group, k, o] at n * m_image + group * m_group + k * m_in + o * m_out
    out,  # [N, H * W, out_stride], from its first channel on
    H,
    W,
    K: tl.constexpr,  # channels a half of a group takes in,
    M: tl.constexpr,  # and gives
    half: tl.constexpr,  # from a half's first channel to the other's
    a_stride: tl.constexpr,
    out_stride: tl.constexpr,
    all_channels: tl.constexpr,
    m_image: tl.constexpr,
    m_group: tl.constexpr,
    m_in: tl.constexpr,
    m_out: tl.constexpr,
    HALVES: tl.constexpr,  # 2: a group's inputs are q's and k's channels, its outputs their gradients
    CONV: tl.constexpr,
    FLIPPED: tl.constexpr,  # the 3x3's transpose
    BP: tl.constexpr,
    BK: tl.constexpr,
    BM: tl.constexpr,  # outputs, all halves
    PRECISION: tl.constexpr,
):
    tiles = tl.cdiv(H * W, BP)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    begin = tl.program_id(0) % tiles * BP
    WIDE: tl.constexpr = BM // HALVES
    group = tl.program_id(1) // tl.cdiv(M, WIDE)
    block = tl.program_id(1) % tl.cdiv(M, WIDE)
    pixel = tl.arange(0, BP)[:, None]
    ours = begin + pixel < H * W
    y = (begin + pixel) // W
    x = (begin + pixel) % W
    o = tl.arange(0, BM)[None, :]
    out_half = o // WIDE
    out_channel = block * WIDE + o % WIDE
    of_out = out_half * M + out_channel
    a += (image * H * W + begin) * a_stride + group * K
    matrix += image * m_image + group * m_group

    blocks = tl.cdiv(K, BK)
    product = tl.zeros([BP, BM], tl.float32)
    for index in range(HALVES * blocks):
        in_half = index // blocks
        k = index % blocks * BK + tl.arange(0, BK)
        channel = in_half * half + k[None, :]
        there = ours & (k[None, :] < K)
        if CONV:
            value = tl.zeros([BP, BK], tl.float32)
            for tap in range(9):  # not unrolled: nine loads at once take more registers than there are
                dy = tap // 3 - 1
                dx = tap % 3 - 1
                seen = there & (y + dy >= 0) & (y + dy < H) & (x + dx >= 0) & (x + dx < W)
                beside = tl.load(a + (pixel + dy * W + dx) * a_stride + channel, mask=seen, other=0.0).to(tl.float32)
                of_tap = (8 - tap if FLIPPED else tap) * all_channels + group * K + channel
                value += beside * tl.load(taps + of_tap, mask=k[None, :] < K, other=0.0).to(tl.float32)
            value = value.to(out.dtype.element_ty)
        else:
            value = tl.load(a + pixel * a_stride + channel, mask=there, other=0.0)
        of_matrix = (in_half * K + k[:, None]) * m_in + of_out * m_out
        m = tl.load(matrix + of_matrix, mask=(k[:, None] < K) & (out_channel < M), other=0.0)
        product = tl.dot(value, m.to(value.dtype), product, input_precision=PRECISION)

    to = out + (image * H * W + begin) * out_stride + group * M + pixel * out_stride + out_half * half + out_channel
    tl.store(to, product.to(out.dtype.element_ty), mask=ours & (out_channel < M))
