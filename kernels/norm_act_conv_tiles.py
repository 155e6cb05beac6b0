"""What the kernels of norm_act_conv share: tiles of pixels, the padded activation gathered for a GEMM, packed weights.

A convolution over `taps` x C values a pixel is a GEMM whose inner index is k = tap * C + c, not padded tap by tap:
9 * 24 is 216 of 224 in blocks of 32. Where C is a multiple of the block, the tap is one scalar a block.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import cdiv, next_power_of_2
from .norm_act_conv_plan import Plan, plan_of

PACK_SIDE = 16  # of a tile: a thread has two weights [k, c], and a row of 16 bits is a sector of 32 bytes
FEW = 256  # fewer programs than this leave multiprocessors idle: smaller tiles then
# BK, num_warps and num_stages. What is loaded is normed and activated before it is multiplied: a deeper block waits
# less often for memory, a shallower one leaves room for more of them. float32 is multiplied in plain registers.
DEPTHS = ((16, 8, 3), (32, 4, 3), (64, 4, 2))


def _fitting(configs: list[triton.Config], arguments: dict[str, Any], **_: Any) -> list[triton.Config]:
    """One for float32; for 16 bits the others."""
    return configs[:1] if arguments["weight"].dtype == torch.float32 else configs[1:]


def tuned(key: list[str]) -> Callable[[Any], Any]:
    """Autotunes a GEMM of norm_act_conv over its depth; what it finds is kept on disk."""
    return triton.autotune(
        [triton.Config({"BK": bk}, num_warps=warps, num_stages=stages) for bk, warps, stages in DEPTHS],
        key=key,
        prune_configs_by={"early_config_prune": _fitting},
        cache_results=True,
    )


def tile_of(x: Tensor, columns: int, pixels: int) -> tuple[int, int]:
    """Pixels and columns of a tile.

    64 columns, which is most of the network's convolutions whole; 128 where that spares a third reading of the pixels.
    A thread sums 64 outputs at most, so that two blocks fit on a multiprocessor.
    """
    bn = min(max(next_power_of_2(columns), 16), 64)
    if x.element_size() == 4:
        return 64, bn
    if 64 < columns <= 128 or columns % 128 == 0:
        return 64, 128
    return 128 if cdiv(pixels, 128) * cdiv(columns, bn) >= FEW else 64, bn


@triton.jit
def pixels_of(tile, count, height, width, BM: tl.constexpr):
    """Pixels [tile * BM, + BM) of images of height x width, `count` pixels in all.

    The first one's image (int64) and row; [BM] images passed since, rows, columns; and how many there are. Offsets
    counted from the first one's row fit in 32 bits, whatever the tensor's size.
    """
    first = tile.to(tl.int64) * BM
    plane = height * width
    image = first // plane
    start = (first - image * plane).to(tl.int32)
    place = start + tl.arange(0, BM)
    passed = place // plane
    place -= passed * plane
    row = place // width
    return image, start // width, passed, row, place - row * width, tl.minimum(count - first, BM).to(tl.int32)


@triton.jit
def axis_source(index, size, low, high, REFLECT: tl.constexpr):
    """Where the padded axis takes `index` from, and whether it is inside. -1 reflects to low, `size` to high."""
    inside = (index >= 0) & (index < size)
    if REFLECT:
        index = tl.where(index < 0, low, tl.where(index >= size, high, index))
        inside = index >= 0
    return index, inside


@triton.jit
def activated(
    x, scale, shift, slope, above, row, column, exists, tap, channel, used, height, width, low_h, high_h, low_w, high_w,
    before_h, before_w, C: tl.constexpr, TAPS: tl.constexpr, STEP: tl.constexpr, REFLECT: tl.constexpr,
):  # fmt: skip
    """act(x * scale + shift) at the taps of pixels, zero where the padding is: [BM, BK] of x's dtype.

    x points to the tile's first row; above, row, column, exists [BM, 1]; tap a scalar or [1, BK]; channel, used
    [1, BK].
    """
    tap_row = tap // TAPS
    source_row, inside_h = axis_source(STEP * row + tap_row - before_h, height, low_h, high_h, REFLECT)
    source_column, inside_w = axis_source(STEP * column + tap % TAPS - before_w, width, low_w, high_w, REFLECT)
    inside = inside_h & inside_w & exists
    offset = ((above + source_row) * width + source_column) * C + channel
    value = tl.load(x + offset, mask=inside & used, other=0.0).to(tl.float32)
    value = value * tl.load(scale + channel, mask=used, other=0.0).to(tl.float32)
    value += tl.load(shift + channel, mask=used, other=0.0).to(tl.float32)
    value = tl.where(value > 0, value, value * slope)
    if not REFLECT:
        value = tl.where(inside, value, 0.0)  # zero padding comes after the activation
    return value.to(x.dtype.element_ty)


@triton.constexpr_function
def _count(taps: tuple[tuple[int, ...], ...], layer: int) -> int:
    return len(taps[layer])


@triton.constexpr_function
def _sums(taps: tuple[tuple[int, ...], ...], layer: int, tap: int, row: int, column: int) -> int:
    """Whether a tap, 8 * its set of rows + that of columns, has that weight."""
    return (taps[layer][tap] >> (3 + row)) & (taps[layer][tap] >> column) & 1


@triton.jit
def _store_sums(
    values, to, K, C, k, c, exists, TAPS: tl.constexpr, LAYER: tl.constexpr, TURNED: tl.constexpr, SIDE: tl.constexpr
):
    """A tile's place in the matrices [K, C], or [C, K] if TURNED, of taps; values: its nine weights [SIDE, SIDE]."""
    if TURNED:
        to += c[:, None] * K + k[None, :]
        exists = tl.trans(exists)
    else:
        to += k[:, None] * C + c[None, :]
    size = tl.cast(K, tl.int64) * C
    for tap in tl.static_range(_count(TAPS, LAYER)):
        total = tl.zeros([SIDE, SIDE], tl.float32)
        for i in tl.static_range(9):
            if _sums(TAPS, LAYER, tap, i // 3, i % 3):
                total += values[i]
        value = total.to(to.dtype.element_ty)
        if TURNED:  # after the rounding: it goes through shared memory
            value = tl.trans(value)
        tl.store(to + tap * size, value, mask=exists)


@triton.jit
def _pack_tile(
    weight, packed, tile, K, C, stride_k, stride_c, stride_h, stride_w, FORWARD: tl.constexpr, BACK: tl.constexpr,
    LAYER: tl.constexpr, SIDE: tl.constexpr,
):  # fmt: skip
    """SIDE x SIDE of a weight's [K, C], read once, to all of its matrices."""
    across = tl.cdiv(C, SIDE)
    k = tile // across * SIDE + tl.arange(0, SIDE)
    c = tile % across * SIDE + tl.arange(0, SIDE)
    exists = (k < K)[:, None] & (c < C)[None, :]
    source = weight + k.to(tl.int64)[:, None] * stride_k + c.to(tl.int64)[None, :] * stride_c
    values = ()
    for i in tl.static_range(9):
        value = tl.load(source + (i // 3 * stride_h + i % 3 * stride_w), mask=exists, other=0.0)
        values = values + (value.to(tl.float32),)  # noqa: RUF005
    _store_sums(values, packed, K, C, k, c, exists, FORWARD, LAYER, TURNED=True, SIDE=SIDE)
    behind = tl.cast(K, tl.int64) * C * _count(FORWARD, LAYER)
    _store_sums(values, packed + behind, K, C, k, c, exists, BACK, LAYER, TURNED=False, SIDE=SIDE)


@triton.jit
def _pack(
    weights, packed, sizes, strides, FORWARD: tl.constexpr, BACK: tl.constexpr, COUNT: tl.constexpr,
    SIDE: tl.constexpr,
):  # fmt: skip
    """Of each of COUNT weights its taps [C, K] for the forward, FORWARD[i], and [K, C] for what is backward, BACK[i].

    A program takes a tile of one of the weights. The taps are constants: one that is a single weight is no more than a
    store.
    """
    tile = tl.program_id(0)
    for i in tl.static_range(COUNT):
        tiles = tl.cdiv(sizes[i][0], SIDE) * tl.cdiv(sizes[i][1], SIDE)
        if (tile >= 0) & (tile < tiles):
            _pack_tile(
                weights[i], packed[i], tile, sizes[i][0], sizes[i][1], strides[i][0], strides[i][1], strides[i][2],
                strides[i][3], FORWARD, BACK, LAYER=i, SIDE=SIDE,
            )  # fmt: skip
        tile -= tiles


def pack(
    weights: list[Tensor], plans: list[Plan], dtype: torch.dtype, forward: bool = True, backward: bool = True
) -> list[Tensor]:
    """Weights [K, C, 3, 3] -> for each [taps, C, K] and behind it [taps, K, C], in one launch.

    The first is for the forward, the other for the gradient of the input; of both directions the compiled kernels'
    [taps, K, C] come last.
    """
    ahead = [_numbers(plan.forward_taps) if forward else () for plan in plans]
    back = [
        (_numbers(plan.back_taps) if backward else ()) + (_numbers(plan.plain_taps) if forward and backward else ())
        for plan in plans
    ]
    sizes = [(w.shape[0], w.shape[1]) for w in weights]
    packed = [
        w.new_empty((len(one) + len(other)) * k * c, dtype=dtype)
        for w, (k, c), one, other in zip(weights, sizes, ahead, back, strict=True)
    ]
    tiles = sum(cdiv(k, PACK_SIDE) * cdiv(c, PACK_SIDE) for k, c in sizes)
    _pack[(tiles,)](
        tuple(weights), tuple(packed), tuple(sizes), tuple(w.stride() for w in weights), FORWARD=tuple(ahead),
        BACK=tuple(back), COUNT=len(weights), SIDE=PACK_SIDE,
    )  # fmt: skip
    return packed


def _numbers(taps: list[tuple[int, int]]) -> tuple[int, ...]:
    """Taps as constants of the kernel."""
    return tuple(8 * rows + columns for rows, columns in taps)


def packed_for(weight: Tensor, packed: Tensor | None, like: Tensor, stride: int, plan: Plan, backward: bool) -> Tensor:
    """[taps, C, K], or [taps, K, C] for the gradient of the input, of `like`'s dtype: of `packed` if it has that.

    packed: `pack`'s for maps of more than one row and column, both ways or forward alone.
    """
    taps = plan.back_taps if backward else plan.forward_taps
    usual = plan_of(2, 2, stride, plan.reflect, plan.rows.upsample)
    (k, c), ahead = weight.shape[:2], len(usual.forward_taps)
    shape = (len(taps), k, c) if backward else (len(taps), c, k)
    behind = ahead + len(usual.back_taps)
    whole = (behind + len(usual.plain_taps)) * k * c
    sizes = (whole,) if backward else (whole, ahead * k * c)
    same = taps == (usual.back_taps if backward else usual.forward_taps)
    if packed is None or packed.dtype != like.dtype or packed.numel() not in sizes or not same:
        return pack([weight], [plan], like.dtype, not backward, backward)[0].view(shape)
    return (packed[ahead * k * c : behind * k * c] if backward else packed[: ahead * k * c]).view(shape)
