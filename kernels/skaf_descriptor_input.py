"""Gradient of skaf_descriptor's x, without u's.

    dx[q] = sum over taps d of dmax[q - d] * W[argmax[q - d], d] + dmean[q - d] * (mean of all channels' W)[d]

The first part gathers one run of C weights for each pixel and tap: at most K * K * C multiply-adds a pixel, where the
dense gradient of two convolutions has 74 * C * C. Runs come from caches: all programs that run at a time are near the
same taps, and one tap's weights are C * total numbers. The second part is a product with one matrix [K * K, C],
the last row of the packed weights.
A program makes BLOCK_C channels of BLOCK_M pixels, and is the only one that writes there.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .skaf_descriptor_forward import count, places


@triton.jit
def input_kernel(dm_ptr, argmax_ptr, packed_ptr, dx_ptr, pixels, H, W, C: tl.constexpr, WINDOW: tl.constexpr,
                 FIRSTS: tl.constexpr, RADII: tl.constexpr, PRECISION: tl.constexpr,
                 TILED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr):  # fmt: skip
    """dx of a tile. Convolution i has the channels FIRSTS[i] to FIRSTS[i + 1] of u and reaches RADII[i] far."""
    radius: tl.constexpr = WINDOW // 2
    length: tl.constexpr = WINDOW * WINDOW * C
    first_pixel, pixel, y, x = places(pixels, H, W, BLOCK_M, TILED)
    p = first_pixel + pixel
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    # 64-bit addresses of the tile's first image, 32-bit distances from there: fewer registers.
    image = first_pixel // (H * W)
    dm_ptr += image * (2 * H * W)
    argmax_ptr += image * (H * W)
    at = (first_pixel - image * (H * W)).to(tl.int32) + pixel
    gradient = at + at // (H * W) * (H * W)
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    mean_ptr = packed_ptr + FIRSTS[count(RADII)] * length
    for start in range(0, WINDOW * WINDOW, BLOCK_T):
        tap = start + tl.arange(0, BLOCK_T)
        dy = tap // WINDOW - radius
        dx = tap % WINDOW - radius
        row, column = y[:, None] - dy[None, :], x[:, None] - dx[None, :]
        within = tap < WINDOW * WINDOW
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & within[None, :]
        gains = tl.load(dm_ptr + (gradient[:, None] - (dy * W + dx)[None, :]), mask=inside, other=0.0)
        mean = tl.load(mean_ptr + tap[:, None] * C + c[None, :], mask=within[:, None] & (c < C)[None, :], other=0.0)
        acc = tl.dot(gains, mean, acc, input_precision=PRECISION)
    for i in range(WINDOW):
        row = y - (i - radius)
        for j in tl.static_range(WINDOW):
            column = x - (j - radius)
            shift = (i - radius) * W + (j - radius)
            inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
            o = tl.load(argmax_ptr + (at - shift), mask=inside, other=0)
            gain = tl.load(dm_ptr + (gradient + (H * W - shift)), mask=inside, other=0.0).to(tl.float32)
            for conv in tl.static_range(count(RADII)):
                # Outside of a smaller kernel there are zeros, which need not be read.
                if RADII[conv] < radius:
                    near, far = radius - RADII[conv], radius + RADII[conv]
                    out = (i < near) | (i > far) | (j < near) | (j > far)
                    inside = inside & ~(out & (o >= FIRSTS[conv]) & (o < FIRSTS[conv + 1]))
            run = o * length + (i * WINDOW + j) * C
            w = tl.load(packed_ptr + (run[:, None] + c[None, :]), mask=inside[:, None] & (c < C)[None, :], other=0.0)
            acc += gain[:, None] * w.to(tl.float32)
    to = dx_ptr + p[:, None] * C + c[None, :]
    tl.store(to, acc.to(dx_ptr.dtype.element_ty), mask=(y >= 0)[:, None] & (c < C)[None, :])
