"""The pass of multiscale_dwconv that filters: y_k = a * DW_k(x_k) + b_k; with taps turned dx = a * sum_k DW_k^T(dy_k).

A program makes ROWS rows of a segment of BLOCK elements. In channels_last a row of an image is W * C neighbours and a
shift by a pixel is one by C of them, so a segment needs no padding whatever C is, and C = 24 wastes no lane; weights
repeat with period C. For each horizontal shift the rows that the taps of that column meet are loaded once, and each
weight once for ROWS rows: with 8 of them 12 loads of x and 10 of weights for the 83 multiply-adds that an element of
3, 5, 7 takes, where taps that load for themselves make 83 of each. Shifts are a loop, in which a branch takes part
where it reaches: code is a fifth of what it would be unrolled. A thread has two neighbours of a row, or four where each
branch has its own x (24 loads of x for an element, but sums of one branch only): a load, its mask and its address serve
all of them; where W * C is odd it has one. The scale a is linear: it waits for the sums, so a * x never exists.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import all_registers, cdiv, next_power_of_2, on_device_of, zeros

Kernels = tuple[int, ...]


@triton.constexpr_function
def first_row(kernels: tuple[int, ...], k: int) -> int:
    """Where branch k begins among the rows [C] of all parameters: K * K taps of each branch, then its bias."""
    return sum(kernel * kernel + 1 for kernel in kernels[:k])


@triton.constexpr_function
def radius_of(kernels: tuple[int, ...], first: int, last: int) -> int:
    """Of the largest of the branches from first to last."""
    return max(kernels[first:last]) // 2


@triton.constexpr_function
def middle_tap(kernels: tuple[int, ...], k: int, ky: int, turned: bool) -> int:
    """The row of the tap in the middle of row ky of branch k; turned by half a turn."""
    kernel = kernels[k]
    before = sum(size * size + 1 for size in kernels[:k])
    return before + (kernel - 1 - ky if turned else ky) * kernel + kernel // 2


@triton.jit
def load_rows(x, at, inside, row, height, length, ROWS: tl.constexpr, ACC: tl.constexpr):
    """ROWS rows [BLOCK] of an image from `row` on, zeros outside it; x points at the beginning of that row."""
    rows = ()
    for r in tl.static_range(ROWS):
        there = inside & (row + r >= 0) & (row + r < height)
        rows = rows + (tl.load(x + r * length + at, mask=there, other=0.0).to(ACC),)  # noqa: RUF005
    return rows


@triton.jit
def _pack_kernel(weights, biases, packed, C: tl.constexpr, KERNELS: tl.constexpr, BLOCK: tl.constexpr):
    """[C, 1, K, K] and [C] of all branches to packed [rows, C], zeros for no bias."""
    row = tl.program_id(0)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    for k in tl.static_range(len(KERNELS)):
        tap = row - first_row(KERNELS, k)
        taps = KERNELS[k] * KERNELS[k]
        if (tap >= 0) & (tap <= taps):
            value = tl.load(weights[k] + channel * taps + tap, mask=(channel < C) & (tap < taps), other=0.0)
            value = value.to(packed.dtype.element_ty)
            if biases[k] is not None:
                bias = tl.load(biases[k] + channel, mask=(channel < C) & (tap == taps), other=0.0)
                value += bias.to(packed.dtype.element_ty)
            tl.store(packed + row * C + channel, value, mask=channel < C)


def pack(weights: Sequence[Tensor], biases: Sequence[Tensor | None], dtype: torch.dtype) -> Tensor:
    """All branches' weights [C, 1, K, K] and biases [C] as rows [rows, C] of dtype; first_row says where."""
    kernels = tuple(weight.shape[-1] for weight in weights)
    c, rows = weights[0].shape[0], sum(kernel * kernel + 1 for kernel in kernels)
    packed = weights[0].new_empty((rows, c), dtype=dtype)
    block = min(128, next_power_of_2(max(c, 16)))  # not of one lane, whose masked loads give NaN when interpreted
    with on_device_of(packed):
        _pack_kernel[(rows, cdiv(c, block))](
            tuple(weight.contiguous() for weight in weights),
            tuple(bias.contiguous() if bias is not None and bias.numel() else None for bias in biases),
            packed,
            C=c,
            KERNELS=kernels,
            BLOCK=block,
            num_warps=max(1, block // 32),
        )
    return packed


@triton.jit
def _column(
    sums, rows, weights,
    C: tl.constexpr, KERNELS: tl.constexpr, K: tl.constexpr, FIRST: tl.constexpr, RADIUS: tl.constexpr,
    TURNED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """sums and what a column of taps of branch K makes of rows; weights points to its shift beside the middle."""
    BEFORE: tl.constexpr = (K - FIRST) * ROWS
    SIZE: tl.constexpr = KERNELS[K]
    MARGIN: tl.constexpr = RADIUS - SIZE // 2
    turn = sums[BEFORE : BEFORE + ROWS]
    for ky in tl.static_range(SIZE):
        weight = tl.load(weights + middle_tap(KERNELS, K, ky, TURNED) * C)
        taken = turn
        turn = ()
        for j in tl.static_range(ROWS):
            turn = turn + (tl.fma(rows[ky + j + MARGIN], weight, taken[j]),)  # noqa: RUF005
    return sums[:BEFORE] + turn + sums[BEFORE + ROWS :]


@triton.jit
def _convolve(
    sums, x, packed, at, channel, row, height, length,
    C: tl.constexpr, KERNELS: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr, TURNED: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """sums, ROWS [BLOCK] for each branch from FIRST to LAST, and what they make of x, which points at `row`."""
    ACC: tl.constexpr = packed.dtype.element_ty
    RADIUS: tl.constexpr = radius_of(KERNELS, FIRST, LAST)
    top = x - RADIUS * length
    for shift in range(-RADIUS, RADIUS + 1):
        there = at + shift * C
        inside = (there >= 0) & (there < length)
        rows = load_rows(top, there, inside, row - RADIUS, height, length, ROWS + 2 * RADIUS, ACC)
        weights = packed + channel + (-shift if TURNED else shift) * C
        for k in tl.static_range(FIRST, LAST):
            if (shift >= -(KERNELS[k] // 2)) & (shift <= KERNELS[k] // 2):
                sums = _column(sums, rows, weights, C, KERNELS, k, FIRST, RADIUS, TURNED, ROWS)
    return sums


@triton.jit
def _store(
    sums, y, base, at, row, height, length, factors, bias,
    FIRST: tl.constexpr, ROWS: tl.constexpr, SCALED: tl.constexpr,
):  # fmt: skip
    """ROWS sums from FIRST on to y; factors are loaded only here, where registers are free again."""
    if SCALED:
        a = tl.load(factors).to(sums[FIRST].dtype)
    for j in tl.static_range(ROWS):
        value = sums[FIRST + j]
        if SCALED:
            value = value * a
        value = (value + bias).to(y.dtype.element_ty)
        tl.store(y + base + j * length + at, value, mask=(at < length) & (row + j < height))


@triton.jit
def _bias(packed, channel, C: tl.constexpr, KERNELS: tl.constexpr, K: tl.constexpr, TURNED: tl.constexpr):
    """Of branch K; none of a gradient."""
    bias = tl.zeros_like(channel).to(packed.dtype.element_ty)
    if not TURNED:
        bias = tl.load(packed + (first_row(KERNELS, K + 1) - 1) * C + channel)
    return bias


@triton.jit
def _filter_kernel(
    xs, ys, packed, scale, height, width,
    C: tl.constexpr, KERNELS: tl.constexpr, SHARED: tl.constexpr, SUMMED: tl.constexpr, TURNED: tl.constexpr,
    SCALED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One x for all branches (SHARED) or one each; one y each, or one for their sum (SUMMED)."""
    ACC: tl.constexpr = packed.dtype.element_ty
    BRANCHES: tl.constexpr = len(KERNELS)
    length = width * C
    segments = tl.cdiv(length, BLOCK)
    bands = tl.cdiv(height, ROWS)
    program = tl.program_id(0)
    image = program // segments // bands
    row = program // segments % bands * ROWS
    at = program % segments * BLOCK + tl.arange(0, BLOCK)
    channel = at % C
    base = (image.to(tl.int64) * height + row) * length
    factors = scale + image.to(tl.int64) * C + channel
    if SHARED:
        sums = zeros(BRANCHES * ROWS, (BLOCK,), ACC)
        sums = _convolve(
            sums, xs[0] + base, packed, at, channel, row, height, length, C, KERNELS, 0, BRANCHES, TURNED, ROWS
        )
        for k in tl.static_range(BRANCHES):
            bias = _bias(packed, channel, C, KERNELS, k, TURNED)
            _store(sums, ys[k], base, at, row, height, length, factors, bias, k * ROWS, ROWS, SCALED)
    else:
        sums = zeros(ROWS, (BLOCK,), ACC)
        for k in tl.static_range(BRANCHES):
            sums = _convolve(
                sums, xs[k] + base, packed, at, channel, row, height, length, C, KERNELS, k, k + 1, TURNED, ROWS
            )
            if not SUMMED:
                bias = _bias(packed, channel, C, KERNELS, k, TURNED)
                _store(sums, ys[k], base, at, row, height, length, factors, bias, 0, ROWS, SCALED)
                sums = zeros(ROWS, (BLOCK,), ACC)
        if SUMMED:
            _store(sums, ys[0], base, at, row, height, length, factors, 0.0, 0, ROWS, SCALED)


def filtered(
    x: Sequence[Tensor],
    packed: Tensor,
    kernels: Kernels,
    scale: Tensor | None,
    *,
    turned: bool = False,
    summed: bool = False,
) -> list[Tensor]:
    """scale * DW_k(x_k) + b_k for each branch, of x's dtype, channels_last; turned for gradients, or summed to one.

    Args:
        x: one channels_last [N, C, H, W] for all branches, or one each.
        packed: what pack() made of weights and biases; biases are added to branches, not to their sum, nor if turned.
        scale: contiguous [N, C, 1, 1] or [N, C], or None.
    """
    n, c, h, w = x[0].shape
    shared = len(x) == 1
    y = [x[0].new_empty((n, h, w, c)).permute(0, 3, 1, 2) for _ in range(1 if summed else len(kernels))]
    rows, block, warps = _tile(kernels, shared, h, w * c, x[0].dtype)
    with on_device_of(packed):
        _filter_kernel[(n * cdiv(h, rows) * cdiv(w * c, block),)](
            tuple(x),
            tuple(y),
            packed,
            scale if scale is not None else packed,
            h,
            w,
            C=c,
            KERNELS=kernels,
            SHARED=shared,
            SUMMED=summed and not shared,
            TURNED=turned,
            SCALED=scale is not None,
            ROWS=rows,
            BLOCK=block,
            num_warps=warps,
            **(all_registers() if scale is not None and block > 256 else {}),
        )
    return y


def _tile(kernels: Kernels, shared: bool, height: int, length: int, dtype: torch.dtype) -> tuple[int, int, int]:
    """ROWS, BLOCK and warps of _filter_kernel."""
    taps = sum(kernel * kernel for kernel in kernels)
    rows = 8 if taps <= 100 else 4  # sums of every branch's rows, and rows of x with a radius more, are registers
    if dtype == torch.float64:
        rows //= 2
    each = 2 if shared or dtype == torch.float64 else 4
    while length % each or (each > 1 and 64 * each >= length):  # no more than one load brings, nor than the row has
        each //= 2
    return min(rows, next_power_of_2(height)), 128 * each, 4
