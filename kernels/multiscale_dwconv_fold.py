"""What multiscale_dwconv makes of the sums S[n, k, tap, c] and sum dy_k of its pass over pixels:
dW_k[c, tap] = sum_n a[n, c] S[n, k, tap, c], da[n, c] = sum_k sum_tap W_k[c, tap] S[n, k, tap, c], db_k = sum dy_k.

Two stages in a fixed order, no atomics. The first adds the lanes of a channel and the programs of a group to
[groups, rows, C], with a scale one group an image; the second adds groups to dW and db, weighed by the scale, and rows
to da, weighed by the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from ._common import cdiv, next_power_of_2, on_device_of
from .multiscale_dwconv_filter import first_row


@triton.jit
def _fold_kernel(
    partial, folded, programs, groups, rows,
    C: tl.constexpr, CHANNELS: tl.constexpr, BLOCKS: tl.constexpr, LANES: tl.constexpr, WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """folded [group, row, channel]: the sum over a group's programs and over the lanes of a channel."""
    PIXELS: tl.constexpr = LANES // CHANNELS
    row = tl.program_id(0) % rows
    block = tl.program_id(0) // rows % BLOCKS
    group = (tl.program_id(0) // rows // BLOCKS).to(tl.int64)
    first = group * programs // groups * PIXELS
    last = (group + 1) * programs // groups * PIXELS
    lane = tl.arange(0, WIDTH)
    sums = tl.zeros((DEPTH, WIDTH), dtype=partial.dtype.element_ty)
    for start in range(first, last, DEPTH):
        i = start + tl.arange(0, DEPTH)
        line = (i // PIXELS * BLOCKS + block) * rows + row
        at = partial + (line * LANES + i % PIXELS * CHANNELS)[:, None] + lane[None, :]
        sums += tl.load(at, mask=(i < last)[:, None] & (lane < CHANNELS)[None, :], other=0.0)
    channel = block * CHANNELS + lane
    to = folded + (group * rows + row) * C + channel
    tl.store(to, tl.sum(sums, axis=0), mask=(lane < CHANNELS) & (channel < C))


@triton.jit
def _parameters_kernel(
    folded, scale, dweights, dbiases, groups, rows,
    C: tl.constexpr, KERNELS: tl.constexpr, SCALED: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """dweights [C, 1, K, K] and dbiases [C] from folded [group, row, C]; with a scale a group is an image."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    of_bias = row < 0
    for k in tl.static_range(len(KERNELS)):
        of_bias = of_bias | (row == first_row(KERNELS, k + 1) - 1)
    sums = tl.zeros((DEPTH, WIDTH), dtype=folded.dtype.element_ty)
    for start in range(0, groups, DEPTH):
        group = (start + tl.arange(0, DEPTH)).to(tl.int64)
        inside = (group < groups)[:, None] & (channel < C)[None, :]
        value = tl.load(folded + ((group * rows + row) * C)[:, None] + channel[None, :], mask=inside, other=0.0)
        if SCALED:
            a = tl.load(scale + (group * C)[:, None] + channel[None, :], mask=inside, other=0.0).to(value.dtype)
            value = tl.where(of_bias, value, value * a)  # the bias comes after the scale
        sums += value
    total = tl.sum(sums, axis=0)
    for k in tl.static_range(len(KERNELS)):
        taps = KERNELS[k] * KERNELS[k]
        tap = row - first_row(KERNELS, k)
        there = (channel < C) & (tap >= 0)
        tl.store(dweights[k] + channel * taps + tap, total.to(dweights[k].dtype.element_ty), mask=there & (tap < taps))
        tl.store(dbiases[k] + channel, total.to(dbiases[k].dtype.element_ty), mask=there & (tap == taps))


@triton.jit
def _scale_kernel(folded, packed, dscale, rows, C: tl.constexpr, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """dscale [N, C] from folded [N, row, C] and packed [row, C], whose rows of biases are zeros."""
    image = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    sums = tl.zeros((DEPTH, WIDTH), dtype=folded.dtype.element_ty)
    for start in range(0, rows, DEPTH):
        row = start + tl.arange(0, DEPTH)
        inside = (row < rows)[:, None] & (channel < C)[None, :]
        at = (row * C)[:, None] + channel[None, :]
        value = tl.load(folded + image * rows * C + at, mask=inside, other=0.0)
        sums += value * tl.load(packed + at, mask=inside, other=0.0)
    tl.store(dscale + image * C + channel, tl.sum(sums, axis=0).to(dscale.dtype.element_ty), mask=channel < C)


def fold(partial: Tensor, groups: int, c: int, channels: int) -> Tensor:
    """[groups, rows, C] of partial [programs, blocks, rows, lanes], where lanes are pixels of `channels` channels."""
    programs, blocks, rows, lanes = partial.shape
    folded = partial.new_empty((groups, rows, c))
    width = next_power_of_2(channels)
    with on_device_of(partial):
        _fold_kernel[(rows * blocks * groups,)](
            partial, folded, programs, groups, rows, C=c, CHANNELS=channels, BLOCKS=blocks, LANES=lanes, WIDTH=width,
            DEPTH=1024 // width, num_warps=2,
        )  # fmt: skip
    return folded


def parameter_gradients(
    folded: Tensor, weights: Sequence[Tensor], scale: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    """dW and db of all branches, of the weights' dtypes, from tap_sums(), by image if there is a scale [N, C, 1, 1]."""
    groups, rows, c = folded.shape
    dweights = [weight.new_empty(weight.shape) for weight in weights]
    dbiases = [weight.new_empty(c) for weight in weights]
    width = min(32, next_power_of_2(c))
    with on_device_of(folded):
        _parameters_kernel[(rows, cdiv(c, width))](
            folded, folded if scale is None else scale, tuple(dweights), tuple(dbiases), groups, rows, C=c,
            KERNELS=tuple(weight.shape[-1] for weight in weights), SCALED=scale is not None, WIDTH=width,
            DEPTH=512 // width, num_warps=1,
        )  # fmt: skip
    return dweights, dbiases


def scale_gradient(folded: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """da like scale [N, C, 1, 1] from tap_sums() by image and weights packed without biases."""
    n, rows, c = folded.shape
    dscale = scale.new_empty(scale.shape)
    width = min(32, next_power_of_2(c))
    with on_device_of(folded):
        _scale_kernel[(n, cdiv(c, width))](
            folded, packed, dscale, rows, C=c, WIDTH=width, DEPTH=1024 // width, num_warps=2
        )
    return dscale
