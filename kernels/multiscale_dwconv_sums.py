"""The pass of multiscale_dwconv that sums over pixels. With S[n, k, tap, c] = sum_p x_k[n, p + tap, c] dy_k[n, p, c]
dW_k[c, tap] = sum_n a[n, c] S[n, k, tap, c], da[n, c] = sum_k sum_tap W_k[c, tap] S[n, k, tap, c], db_k = sum dy_k.

Three stages in a fixed order, no atomics. The first keeps a sum for every tap in registers: a lane is a channel of one
pixel of a tile and takes ROWS rows of dy, so for each horizontal shift a row of x is loaded once for all taps of that
column (15 loads for the 83 multiply-adds of an element of 3, 5, 7). A program walks over a share of the tiles that
depends on shapes only and writes its sums lane by lane; the second stage adds lanes and programs to [groups, rows, C],
with a scale one group an image; the third adds groups to dW and db, weighed by the scale, and rows to da, weighed by
the weights. The scale is met after the large sums, so a * x never exists, and da reads neither x nor dy again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import cdiv, next_power_of_2, on_device_of
from .multiscale_dwconv_filter import Kernels, first_row, load_rows, radius_of, reaches

LANES = 128
PROGRAMS = 512  # of the first stage: about four blocks on each multiprocessor of a large GPU, one wave
GROUPS = 32  # that the second stage leaves to the third, without a scale
TAPS = 100  # of one launch of the first stage, a register each


@triton.constexpr_function
def column_of(kernels: tuple[int, ...], start: int, k: int, shift: int) -> int:
    """Where the sums have the taps of branch k `shift` beside its middle: by columns, where rows have them by rows."""
    before = sum(kernel * kernel + 1 for kernel in kernels[start:k])
    return before + (shift + kernels[k] // 2) * kernels[k]


@triton.constexpr_function
def end_of(kernels: tuple[int, ...], start: int, k: int) -> int:
    """Where the sums of branch k end, of which the last is the bias's."""
    return sum(kernel * kernel + 1 for kernel in kernels[start : k + 1])


@triton.constexpr_function
def row_of_sum(kernels: tuple[int, ...], start: int, i: int) -> int:
    """The row, counted from branch `start` on, of sum i."""
    rows = 0
    for kernel in kernels[start:]:
        if i - rows < kernel * kernel:
            return rows + (i - rows) % kernel * kernel + (i - rows) // kernel
        rows += kernel * kernel + 1
        if i < rows:
            return i
    raise IndexError(i)


@triton.jit
def _correlate(
    sums, x, gradients, at, pixel, live, row, height, width,
    C: tl.constexpr, KERNELS: tl.constexpr, START: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
    ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """sums [LANES] of branches from START on, and what x and gradients make of those from FIRST to LAST."""
    RADIUS: tl.constexpr = radius_of(KERNELS, FIRST, LAST)
    length = width * C
    top = x - RADIUS * length
    for shift in tl.static_range(-RADIUS, RADIUS + 1):
        inside = live & (pixel + shift >= 0) & (pixel + shift < width)
        rows = load_rows(top, at + shift * C, inside, row - RADIUS, height, length, ROWS + 2 * RADIUS, ACC)
        for k in tl.static_range(FIRST, LAST):
            if reaches(KERNELS, k, shift):
                column = ()
                for ky in tl.static_range(KERNELS[k]):
                    total = sums[column_of(KERNELS, START, k, shift) + ky]
                    for j in tl.static_range(ROWS):
                        value = rows[ky + j + RADIUS - KERNELS[k] // 2]
                        total = tl.fma(value, gradients[(k - FIRST) * ROWS + j], total)
                    column = column + (total,)  # noqa: RUF005
                before = sums[: column_of(KERNELS, START, k, shift)]
                sums = before + column + sums[column_of(KERNELS, START, k, shift) + KERNELS[k] :]
    for k in tl.static_range(FIRST, LAST):
        total = sums[end_of(KERNELS, START, k) - 1]
        for j in tl.static_range(ROWS):
            total += gradients[(k - FIRST) * ROWS + j]
        before = sums[: end_of(KERNELS, START, k) - 1]
        sums = before + (total,) + sums[end_of(KERNELS, START, k) :]  # noqa: RUF005
    return sums


@triton.jit
def _sums_kernel(
    xs, dys, partial, tiles, programs, height, width,
    C: tl.constexpr, KERNELS: tl.constexpr, START: tl.constexpr, END: tl.constexpr, SHARED: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """partial [program, block of channels, row, lane]: the rows of branches from START to END."""
    ACC: tl.constexpr = partial.dtype.element_ty
    PIXELS: tl.constexpr = LANES // CHANNELS
    program = tl.program_id(0) // BLOCKS
    block = tl.program_id(0) % BLOCKS
    lane = tl.arange(0, LANES)
    channel = block * CHANNELS + lane % CHANNELS
    segments = tl.cdiv(width, PIXELS)
    bands = tl.cdiv(height, ROWS)
    sums = ()
    for _ in tl.static_range(first_row(KERNELS, END) - first_row(KERNELS, START)):
        sums = sums + (tl.zeros((LANES,), dtype=ACC),)  # noqa: RUF005
    first = (program.to(tl.int64) * tiles // programs).to(tl.int32)
    last = ((program.to(tl.int64) + 1) * tiles // programs).to(tl.int32)
    for step in range(last - first):
        tile = first + step
        row = tile // segments % bands * ROWS
        pixel = tile % segments * PIXELS + lane // CHANNELS
        live = (lane < PIXELS * CHANNELS) & (channel < C)
        at = pixel * C + channel
        base = ((tile // segments // bands).to(tl.int64) * height + row) * (width * C)
        if SHARED:
            gradients = ()
            for k in tl.static_range(START, END):
                there = live & (pixel < width)
                gradients = gradients + load_rows(dys[k] + base, at, there, row, height, width * C, ROWS, ACC)
            sums = _correlate(
                sums, xs[0] + base, gradients, at, pixel, live, row, height, width, C, KERNELS, START, START, END,
                ROWS, ACC,
            )  # fmt: skip
        else:
            for k in tl.static_range(START, END):
                there = live & (pixel < width)
                gradients = load_rows(dys[k] + base, at, there, row, height, width * C, ROWS, ACC)
                sums = _correlate(
                    sums, xs[k] + base, gradients, at, pixel, live, row, height, width, C, KERNELS, START, k, k + 1,
                    ROWS, ACC,
                )  # fmt: skip
    rows = first_row(KERNELS, len(KERNELS))
    to = partial + (tl.program_id(0).to(tl.int64) * rows + first_row(KERNELS, START)) * LANES + lane
    for i in tl.static_range(first_row(KERNELS, END) - first_row(KERNELS, START)):
        tl.store(to + row_of_sum(KERNELS, START, i) * LANES, sums[i])


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


def tap_sums(dy: Sequence[Tensor], x: Sequence[Tensor], kernels: Kernels, by_image: bool, dtype: torch.dtype) -> Tensor:
    """S above and sum dy as [groups, rows, C] of dtype, rows as pack() has them; by_image: a group for each image.

    Args:
        dy: channels_last [N, C, H, W] for each branch.
        x: one channels_last [N, C, H, W] for all branches, or one each.
    """
    n, c, h, w = x[0].shape
    channels = _channels(c)
    blocks, rows = cdiv(c, channels), sum(kernel * kernel + 1 for kernel in kernels)
    height = min(4 if dtype == torch.float64 or max(kernels) > 9 else 8, next_power_of_2(h))
    tiles = cdiv(h, height) * cdiv(w, LANES // channels)
    shares, images = (n, tiles) if by_image else (1, n * tiles)
    programs = shares * min(images, cdiv(PROGRAMS, shares * blocks))
    groups = n if by_image else min(GROUPS, programs)
    partial = x[0].new_empty((programs, blocks, rows, LANES), dtype=dtype)
    folded = x[0].new_empty((groups, rows, c), dtype=dtype)
    with on_device_of(partial):
        for start, end in _launches(kernels):
            _sums_kernel[(programs * blocks,)](
                tuple(x), tuple(dy), partial, n * tiles, programs, h, w, C=c, KERNELS=kernels, START=start, END=end,
                SHARED=len(x) == 1, CHANNELS=channels, BLOCKS=blocks, ROWS=height, LANES=LANES, num_warps=LANES // 32,
            )  # fmt: skip
        width = next_power_of_2(channels)
        _fold_kernel[(rows * blocks * groups,)](
            partial, folded, programs, groups, rows, C=c, CHANNELS=channels, BLOCKS=blocks, LANES=LANES, WIDTH=width,
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


def _channels(c: int) -> int:
    """How many channels a tile of LANES takes, of pixels as many as fit: with the fewest idle lanes."""

    def idle(blocks: int) -> int:
        channels = cdiv(c, blocks)
        return blocks * (LANES // (LANES // channels)) - c  # in lanes for a pixel

    few = cdiv(c, LANES)
    return cdiv(c, min(range(few, max(few, c // 16) + 1), key=lambda blocks: (idle(blocks), blocks)))


def _launches(kernels: Kernels) -> list[tuple[int, int]]:
    """Branches of one launch each, from first to last: as many as leave registers for their sums."""
    launches, start, taps = [], 0, 0
    for k, kernel in enumerate(kernels):
        if k > start and taps + kernel * kernel > TAPS:
            launches.append((start, k))
            start, taps = k, 0
        taps += kernel * kernel
    return [*launches, (start, len(kernels))]
