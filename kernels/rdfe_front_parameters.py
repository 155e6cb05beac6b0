"""The gradients of RDFE's front's depthwise parameters, from sums by image that other passes left.

    dW1_k[c, t] = sum_n S1[n, k, t, c] + constant[n, k, c] met[n, t, c];  db1_k likewise, where all pixels are met
    dW2_k[c, t] = sum_n a[n, c] S2[n, k, t, c];  db2_k[c] = sum_o F[o, k, c] dbias[o], dbias being the fusion's bias's

S1 is of df_k and y, S2 of df'_k and f_k (multiscale_dwconv_sums.py), met are the sums of y over what each tap meets.
db2 is not the sum of df'_k, which are rounded to y's dtype. Always in the same order, no atomics.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import cdiv, next_power_of_2
from .multiscale_dwconv_filter import Kernels, first_row

DEPTH = 32  # of what is added up at once


@triton.jit
def _of_first(
    folded, constant, met, images, row, at, of_tap, k: tl.constexpr, pixels, channel,
    C: tl.constexpr, BRANCHES: tl.constexpr, ROWS: tl.constexpr, TAPS: tl.constexpr,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """[WIDTH] of a row of S1: of_tap, at which of the largest branch's TAPS it is; else it is the bias's."""
    sums = tl.zeros([DEPTH, WIDTH], tl.float32)
    for start in range(0, images, DEPTH):
        n = (start + tl.arange(0, DEPTH)[:, None]).to(tl.int64)
        inside = (n < images) & (channel < C)
        value = tl.load(folded + (n * ROWS + row) * C + channel, mask=inside, other=0)
        added = tl.load(constant + (n * BRANCHES + k) * C + channel, mask=inside, other=0)
        seen = tl.load(met + (n * TAPS + at) * C + channel, mask=inside & of_tap, other=0)
        sums += value + added * tl.where(of_tap, seen, pixels)
    return tl.sum(sums, 0)


@triton.jit
def _of_second(
    folded, a, images, row, channel,
    C: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """[WIDTH] of a tap's row of S2."""
    sums = tl.zeros([DEPTH, WIDTH], tl.float32)
    for start in range(0, images, DEPTH):
        n = (start + tl.arange(0, DEPTH)[:, None]).to(tl.int64)
        inside = (n < images) & (channel < C)
        value = tl.load(folded + (n * ROWS + row) * C + channel, mask=inside, other=0)
        sums += value * tl.load(a + n * C + channel, mask=inside, other=0)
    return tl.sum(sums, 0)


@triton.jit
def _through_fuse(
    fuse, of_bias, splits, k: tl.constexpr, channel,
    C: tl.constexpr, BRANCHES: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """[WIDTH] of the second convolution's bias; of_bias [splits, C]: parts of the fusion's bias's gradient."""
    sums = tl.zeros([DEPTH, WIDTH], tl.float32)
    for start in range(0, C, DEPTH):
        parts = tl.zeros([DEPTH, DEPTH], tl.float32)
        for first in range(0, splits, DEPTH):
            split, out = first + tl.arange(0, DEPTH)[:, None], start + tl.arange(0, DEPTH)[None, :]
            parts += tl.load(of_bias + split * C + out, mask=(split < splits) & (out < C), other=0)
        out = start + tl.arange(0, DEPTH)[:, None]
        at = out * (BRANCHES * C) + k * C + channel
        weights = tl.load(fuse + at, mask=(out < C) & (channel < C), other=0).to(tl.float32)
        sums += weights * tl.expand_dims(tl.sum(parts, 0), 1)
    return tl.sum(sums, 0)


@triton.jit(do_not_specialize=["images", "splits", "pixels"])
def _depthwise_gradients(
    of_first,  # S1 [N, ROWS, C]
    of_second,  # S2 [N, ROWS, C]
    a,  # [N, C]
    constant,  # [N, BRANCHES, C]
    met,  # [N, LARGEST, LARGEST, C]
    fuse,  # [C, BRANCHES * C]
    of_bias,  # [splits, C]
    dweights1,
    dbiases1,
    dweights2,
    dbiases2,
    images,
    splits,
    pixels,
    C: tl.constexpr,
    SIZES: tl.constexpr,
    LARGEST: tl.constexpr,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """A row of the first convolutions' sums, or of the second's, and WIDTH channels."""
    BRANCHES: tl.constexpr = len(SIZES)
    ROWS: tl.constexpr = first_row(SIZES, BRANCHES)
    row = tl.program_id(0) % ROWS
    lane = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    channel = lane[None, :]
    for k in tl.static_range(BRANCHES):
        taps = SIZES[k] * SIZES[k]
        tap = row - first_row(SIZES, k)
        if (tap >= 0) & (tap <= taps):
            of_tap, of_own_bias = (lane < C) & (tap < taps), (lane < C) & (tap == taps)
            if tl.program_id(0) < ROWS:
                margin = LARGEST // 2 - SIZES[k] // 2
                at = (tap // SIZES[k] + margin) * LARGEST + tap % SIZES[k] + margin
                first = _of_first(
                    of_first, constant, met, images, row, at, tap < taps, k, pixels, channel,
                    C, BRANCHES, ROWS, LARGEST * LARGEST, DEPTH, WIDTH,
                )  # fmt: skip
                tl.store(dweights1[k] + lane * taps + tap, first.to(dweights1[k].dtype.element_ty), mask=of_tap)
                tl.store(dbiases1[k] + lane, first.to(dbiases1[k].dtype.element_ty), mask=of_own_bias)
            elif tap < taps:
                second = _of_second(of_second, a, images, row, channel, C, ROWS, DEPTH, WIDTH)
                tl.store(dweights2[k] + lane * taps + tap, second.to(dweights2[k].dtype.element_ty), mask=of_tap)
            else:
                bias = _through_fuse(fuse, of_bias, splits, k, channel, C, BRANCHES, DEPTH, WIDTH)
                tl.store(dbiases2[k] + lane, bias.to(dbiases2[k].dtype.element_ty), mask=of_own_bias)


def depthwise_gradients(
    folded: Tensor,
    a: Tensor,
    constant: Tensor,
    sums: Tensor,
    fuse: Tensor,
    of_bias: Tensor,
    pixels: int,
    sizes: Kernels,
    found: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]],
) -> None:
    """Fill `found`: the gradients of the first convolutions' weights and biases, and of the second's.

    folded: [2, N, rows, C], sums of df' and f, then of df and y. of_bias: [splits, C], parts of fuse_bias's gradient.
    """
    _, n, rows, c = folded.shape
    width = min(32, next_power_of_2(max(c, 8)))
    _depthwise_gradients[(2 * rows, cdiv(c, width))](
        *(folded[1], folded[0], a, constant, sums, fuse, of_bias, *map(tuple, found)),
        *(n, of_bias.shape[0], pixels, c, sizes, max(sizes), DEPTH, width),
        num_warps=2,
    )
