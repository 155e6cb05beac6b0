"""The attention unit of RDFE's front, forward and backward, from sums of y over what each tap meets.

    mean_k = DW_k . sums / HW + bias_k;  a = sigmoid(expand relu(reduce mean))

A few products of vectors: one program an image, everything in registers. Backward goes from the sums of df' and f over
what each tap meets, of which da is the product with the second convolutions, to the gradient of f_k, which is one
number an image, branch and channel; and it leaves what the parameters' gradients are products of.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from ._common import next_power_of_2
from ._totals import Total
from .multiscale_dwconv_filter import Kernels, first_row

CHANNELS = 32  # of a tile


@triton.jit
def _inputs(
    sums,
    packed,
    reduce_weight,
    mean_to,
    n,
    pixels,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    SIZES: tl.constexpr,
    LARGEST: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
    KEEP: tl.constexpr,
):
    """reduce's product with the means [hidden], without its bias; KEEP: the means [branch][channel] to mean_to."""
    unit = tl.arange(0, UNITS)[:, None]
    hidden = tl.zeros([UNITS], tl.float32)
    BRANCHES: tl.constexpr = len(SIZES)
    for k in tl.static_range(BRANCHES):
        size = SIZES[k]
        margin = LARGEST // 2 - size // 2
        for first in range(0, C, BLOCK):
            channel = first + tl.arange(0, BLOCK)[None, :]
            dot = tl.zeros([64, BLOCK], tl.float32)
            for start in range(0, size * size, 64):
                tap = start + tl.arange(0, 64)[:, None]
                inside = (tap < size * size) & (channel < C)
                at = (tap // size + margin) * LARGEST + tap % size + margin
                met = tl.load(sums + (n * LARGEST * LARGEST + at) * C + channel, mask=inside, other=0)
                dot += met * tl.load(packed + (first_row(SIZES, k) + tap) * C + channel, mask=inside, other=0)
            lane = first + tl.arange(0, BLOCK)
            own = tl.load(packed + (first_row(SIZES, k + 1) - 1) * C + lane, mask=lane < C, other=0)
            mean = tl.where(lane < C, tl.sum(dot, 0) / pixels + own, 0)
            if KEEP:
                tl.store(mean_to + (n * BRANCHES + k) * C + lane, mean, mask=lane < C)
            at = unit * (BRANCHES * C) + k * C + channel
            weights = tl.load(reduce_weight + at, mask=(unit < HIDDEN) & (channel < C), other=0).to(tl.float32)
            hidden += tl.sum(weights * mean[None, :], 1)
    return hidden


@triton.jit
def _unit(
    sums,
    packed,
    reduce_weight,
    reduce_bias,
    expand_weight,
    expand_bias,
    a,
    pixels,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    SIZES: tl.constexpr,
    LARGEST: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    hidden = _inputs(sums, packed, reduce_weight, a, n, pixels, C, HIDDEN, SIZES, LARGEST, UNITS, BLOCK, KEEP=False)
    unit = tl.arange(0, UNITS)
    hidden += tl.load(reduce_bias + unit, mask=unit < HIDDEN, other=0).to(tl.float32)
    hidden = tl.where(hidden < 0, 0, hidden)  # a NaN passes
    for first in range(0, C, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        at = channel[:, None] * HIDDEN + unit[None, :]
        inside = (channel < C)[:, None] & (unit < HIDDEN)[None, :]
        weights = tl.load(expand_weight + at, mask=inside, other=0).to(tl.float32)
        total = tl.sum(weights * hidden[None, :], 1)
        total += tl.load(expand_bias + channel, mask=channel < C, other=0).to(tl.float32)
        tl.store(a + n * C + channel, 1 / (1 + tl.exp(-total)), mask=channel < C)


@triton.jit
def _of_scale(
    folded, second, n, first, C: tl.constexpr, SIZES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """da[n, c] = sum_k sum_tap W2_k[c, tap] S[n, k, tap, c] for BLOCK channels."""
    channel = first + tl.arange(0, BLOCK)[None, :]
    dot = tl.zeros([64, BLOCK], tl.float32)
    for k in tl.static_range(len(SIZES)):
        for start in range(0, SIZES[k] * SIZES[k], 64):
            tap = start + tl.arange(0, 64)[:, None]
            inside = (tap < SIZES[k] * SIZES[k]) & (channel < C)
            at = (first_row(SIZES, k) + tap) * C + channel
            weights = tl.load(second + at, mask=inside, other=0)
            dot += weights * tl.load(folded + n * (first_row(SIZES, len(SIZES)) * C) + at, mask=inside, other=0)
    return tl.sum(dot, 0)


@triton.jit
def _unit_backward(
    sums,
    packed,
    reduce_weight,
    reduce_bias,
    expand_weight,
    a,
    folded,
    second,
    mean,
    hidden_to,
    dhidden_to,
    dlogit_to,
    constant,
    pixels,
    C: tl.constexpr,
    HIDDEN: tl.constexpr,
    SIZES: tl.constexpr,
    LARGEST: tl.constexpr,
    UNITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    BRANCHES: tl.constexpr = len(SIZES)
    hidden = _inputs(sums, packed, reduce_weight, mean, n, pixels, C, HIDDEN, SIZES, LARGEST, UNITS, BLOCK, KEEP=True)
    unit = tl.arange(0, UNITS)
    hidden += tl.load(reduce_bias + unit, mask=unit < HIDDEN, other=0).to(tl.float32)
    dhidden = tl.zeros([UNITS], tl.float32)
    for first in range(0, C, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        value = tl.load(a + n * C + channel, mask=channel < C, other=0)
        dlogit = _of_scale(folded, second, n, first, C, SIZES, BLOCK) * value * (1 - value)
        tl.store(dlogit_to + n * C + channel, dlogit, mask=channel < C)
        at = channel[:, None] * HIDDEN + unit[None, :]
        inside = (channel < C)[:, None] & (unit < HIDDEN)[None, :]
        weights = tl.load(expand_weight + at, mask=inside, other=0).to(tl.float32)
        dhidden += tl.sum(weights * dlogit[:, None], 0)
    dhidden = tl.where(hidden <= 0, 0, dhidden)
    tl.store(hidden_to + n * HIDDEN + unit, tl.where(hidden < 0, 0, hidden), mask=unit < HIDDEN)
    tl.store(dhidden_to + n * HIDDEN + unit, dhidden, mask=unit < HIDDEN)
    for first in range(0, BRANCHES * C, BLOCK):
        channel = first + tl.arange(0, BLOCK)
        at = unit[:, None] * (BRANCHES * C) + channel[None, :]
        inside = (unit < HIDDEN)[:, None] & (channel < BRANCHES * C)[None, :]
        weights = tl.load(reduce_weight + at, mask=inside, other=0).to(tl.float32)
        part = tl.sum(weights * dhidden[:, None], 0) / pixels
        tl.store(constant + n * (BRANCHES * C) + channel, part, mask=channel < BRANCHES * C)


def _tile(hidden: int) -> tuple[int, int]:
    """Hidden values and channels of a tile of weights, about 2048 of them."""
    units = next_power_of_2(hidden)
    return units, max(1, min(CHANNELS, 4096 // units))


def unit(sums: Tensor, sizes: Kernels, packed: Tensor, parts: list[Tensor], pixels: int) -> Tensor:
    """a [N, C] from window_sums' sums; packed: what pack() made of the first convolutions.

    parts: reduce's and expand's weights and biases.
    """
    n, largest, _, c = sums.shape
    hidden = parts[1].numel()
    a = sums.new_empty((n, c))
    _unit[(n,)](sums, packed, *parts, a, pixels, c, hidden, sizes, largest, *_tile(hidden), num_warps=4)
    return a


@dataclass(frozen=True)
class UnitGradients:
    """What backward leaves, float32: the gradient of f through a, the same at every pixel, and factors of gradients."""

    constant: Tensor  # [N, branches * C]
    mean: Tensor  # [N, branches * C]: reduce's input
    hidden: Tensor  # [N, hidden]: expand's input
    dhidden: Tensor  # [N, hidden]: of reduce's output
    dlogit: Tensor  # [N, C]: of expand's output

    def totals(self, to: list[Tensor]) -> list[Total]:
        """Of reduce's and expand's weights and biases."""
        dreduce, dreduce_bias, dexpand, dexpand_bias = to
        return [
            Total(self.dhidden, dreduce, self.mean),
            Total(self.dhidden, dreduce_bias),
            Total(self.dlogit, dexpand, self.hidden),
            Total(self.dlogit, dexpand_bias),
        ]


def unit_backward(
    sums: Tensor,
    sizes: Kernels,
    packed: Tensor,
    parts: list[Tensor],
    pixels: int,
    a: Tensor,
    folded: Tensor,
    second: Tensor,
) -> UnitGradients:
    """folded: [N, rows, C], of tap_sums_by_image for df' and f; second: what pack() made of the second convolutions."""
    n, largest, _, c = sums.shape
    hidden = parts[1].numel()
    mean, constant = sums.new_empty((n, len(sizes) * c)), sums.new_empty((n, len(sizes) * c))
    active, dhidden, dlogit = sums.new_empty((n, hidden)), sums.new_empty((n, hidden)), sums.new_empty((n, c))
    _unit_backward[(n,)](
        *(sums, packed, *parts[:3], a, folded, second, mean, active, dhidden, dlogit, constant, pixels),
        *(c, hidden, sizes, largest, *_tile(hidden)),
        num_warps=4,
    )
    return UnitGradients(constant, mean, active, dhidden, dlogit)
