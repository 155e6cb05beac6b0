"""norm_act_conv's last launch backward: the second stage of the sums for scale and shift and for the weight."""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from ._common import cdiv
from .norm_act_conv_plan import Plan

BLOCK = 1024  # partial sums of a channel at a time
SPLITS, WEIGHTS = 16, 64  # splits and weights at a time


@dataclass(frozen=True)
class ChannelSums:
    """What _input_gradient leaves: partial [2][C][parts], and where its sums go."""

    partial: Tensor
    dscale: Tensor
    dshift: Tensor
    parts: int


@dataclass(frozen=True)
class WeightSums:
    """What _weight_gradient leaves: partial [splits][phases][TAPS * TAPS][C][K], and where its sums go."""

    partial: Tensor
    dweight: Tensor  # of any strides
    splits: int


@triton.jit
def _of_channel(partial, dscale, dshift, parts, c, channels, BLOCK: tl.constexpr):
    """One channel's sums for scale and shift."""
    of_scale = partial + c.to(tl.int64) * parts
    of_shift = of_scale + tl.cast(channels, tl.int64) * parts
    scales = tl.zeros([BLOCK], tl.float32)
    shifts = tl.zeros([BLOCK], tl.float32)
    for start in range(0, parts, BLOCK):
        part = start + tl.arange(0, BLOCK)
        scales += tl.load(of_scale + part, mask=part < parts, other=0.0)
        shifts += tl.load(of_shift + part, mask=part < parts, other=0.0)
    tl.store(dscale + c, tl.sum(scales, 0).to(dscale.dtype.element_ty))
    tl.store(dshift + c, tl.sum(shifts, 0).to(dshift.dtype.element_ty))


@triton.jit
def _of_weights(
    partial, dweight, splits, stride_k, stride_c, stride_h, stride_w, place, block, C: tl.constexpr, K: tl.constexpr,
    TAPS: tl.constexpr, PHASES: tl.constexpr, BS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dweight[k, c, i, j]: the sum over splits, and over the phases' taps that have this weight in their sums."""
    i, j = place // 3, place % 3
    within = block * BLOCK + tl.arange(0, BLOCK)
    exists = within < C * K
    acc = tl.zeros([BS, BLOCK], tl.float32)
    for start in range(0, splits, BS):
        split = start + tl.arange(0, BS)
        mask = (split < splits)[:, None] & exists[None, :]
        for phase in tl.static_range(PHASES * PHASES):
            # Nearest x2: a weight is in phase p's second tap if it is behind the first 1 + p.
            tap_h = i if TAPS == 3 else (i > phase // PHASES).to(tl.int32)
            tap_w = j if TAPS == 3 else (j > phase % PHASES).to(tl.int32)
            from_split = (split.to(tl.int64) * (PHASES * PHASES) + phase) * (TAPS * TAPS) + tap_h * TAPS + tap_w
            acc += tl.load(partial + from_split[:, None] * (C * K) + within[None, :], mask=mask, other=0.0)
    at = within % K * stride_k + within // K * stride_c + i * stride_h + j * stride_w
    tl.store(dweight + at, tl.sum(acc, 0).to(dweight.dtype.element_ty), mask=exists)


@triton.jit
def _sums(
    of_channels, dscale, dshift, parts, of_weights, dweight, splits, stride_k, stride_c, stride_h, stride_w,
    CHANNELS: tl.constexpr, C: tl.constexpr, K: tl.constexpr, TAPS: tl.constexpr, PHASES: tl.constexpr,
    BLOCK: tl.constexpr, BS: tl.constexpr, WEIGHTS: tl.constexpr,
):  # fmt: skip
    """CHANNELS programs have a channel each (C of them, or none), the others a block of the weight."""
    pid = tl.program_id(0)
    if pid < CHANNELS:
        _of_channel(of_channels, dscale, dshift, parts, pid, C, BLOCK)
    else:
        BLOCKS: tl.constexpr = (C * K + WEIGHTS - 1) // WEIGHTS
        place, block = (pid - CHANNELS) // BLOCKS, (pid - CHANNELS) % BLOCKS
        _of_weights(
            of_weights, dweight, splits, stride_k, stride_c, stride_h, stride_w, place, block, C, K, TAPS, PHASES, BS,
            WEIGHTS,
        )  # fmt: skip


def add_up(channels: ChannelSums | None, weights: WeightSums | None, c: int, k: int, plan: Plan) -> None:
    """Writes what is there of dscale, dshift and dweight."""
    there = channels or weights
    if there is None:
        return
    anything = there.partial  # in the place of what is not there, and is not read
    of_channels = channels or ChannelSums(anything, anything, anything, 0)
    of_weights = weights or WeightSums(anything, anything, 0)
    blocks = 9 * cdiv(c * k, WEIGHTS) if weights else 0
    strides = weights.dweight.stride() if weights else (0, 0, 0, 0)
    _sums[((c if channels else 0) + blocks,)](
        of_channels.partial, of_channels.dscale, of_channels.dshift, of_channels.parts, of_weights.partial,
        of_weights.dweight, of_weights.splits, *strides, CHANNELS=c if channels else 0, C=c, K=k, TAPS=plan.taps,
        PHASES=plan.phases, BLOCK=BLOCK, BS=SPLITS, WEIGHTS=WEIGHTS,
    )  # fmt: skip
