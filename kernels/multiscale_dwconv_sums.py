"""The pass of multiscale_dwconv that sums over pixels: S[n, k, tap, c] = sum_p x_k[n, p + tap, c] dy_k[n, p, c], and
sum_p dy_k. multiscale_dwconv_fold.py makes dW, db and da of them: the scale is met after these sums, so a * x never
exists, and da reads neither x nor dy again.

A lane is a channel of one column of pixels and walks down it, with a sum for every tap in registers. For a row of x it
loads the pixels that the taps of a row meet (7 for 3, 5, 7) and the next pixel of each dy_k, of which it holds as many
rows as branch k has rows of taps: 10 loads for the 83 multiply-adds of a pixel (18 with one x each), and 101 numbers
held, where rows of x would be 49 pixels. Two rows at a time halve the moves that make room for the next ones;
with one x each that takes too many registers. Three blocks fit on a multiprocessor of sm_90.

A program's share of all rows of all columns depends on shapes only and is within one row of any other's. It writes its
sums lane by lane, no atomics: 44 KiB for 3, 5, 7, so there is one wave of programs, and fewer where rows are few.
A share that begins or ends inside a column reads 3 rows of x more there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import cdiv, on_device_of, zeros
from .multiscale_dwconv_filter import Kernels, first_row, radius_of
from .multiscale_dwconv_fold import fold

LANES = 128
PROGRAMS = 396  # three blocks on each of 132 multiprocessors
STEPS = 48  # rows of a program, at least
GROUPS = 32  # that are left of the programs, without a scale
TAPS = 100  # of one launch, a register each


@triton.constexpr_function
def first_sum(kernels: tuple[int, ...], start: int, k: int) -> int:
    """Where the sums of a launch from branch `start` on have those of branch k: its taps by rows, then its bias."""
    return sum(kernel * kernel + 1 for kernel in kernels[start:k])


@triton.constexpr_function
def first_held(kernels: tuple[int, ...], start: int, k: int) -> int:
    """Where the rows of dy that are held have those of branch k."""
    return sum(kernel - 1 for kernel in kernels[start:k])


@triton.jit
def _enter(sums, held, dy, at, live, row, top, bottom, length, SIZE: tl.constexpr, BIAS: tl.constexpr):
    """(sums, held) of one more branch before its first row of x, `row`: the rows of dy that it meets, but the last."""
    total = sums[BIAS]
    for i in tl.static_range(SIZE - 1):
        there = row + i - SIZE // 2
        mask = live & (there >= top) & (there < bottom)
        value = tl.load(dy + (at + (i - SIZE // 2) * length), mask=mask, other=0.0).to(total.dtype)
        total += value
        held = held + (value,)  # noqa: RUF005
    return sums[:BIAS] + (total,) + sums[BIAS + 1 :], held  # noqa: RUF005


@triton.jit
def _load_steps(
    x, at, live, pixel, row, stop, width, length,
    C: tl.constexpr, RADIUS: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Of ROWS rows of x from `row` on, the pixels from RADIUS before a lane's to RADIUS behind it."""
    values = ()
    for r in tl.static_range(ROWS):
        for shift in tl.static_range(-RADIUS, RADIUS + 1):
            mask = live & (pixel + shift >= 0) & (pixel + shift < width)
            if r > 0:
                mask = mask & (row + r < stop)
            value = tl.load(x + (at + r * length + shift * C), mask=mask, other=0.0)
            values = values + (value.to(ACC),)  # noqa: RUF005
    return values


@triton.jit
def _correlate(
    sums, held, values, dy, at, live, row, top, bottom, length,
    SIZE: tl.constexpr, SUM: tl.constexpr, HELD: tl.constexpr, REACH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """(sums, held), of which one branch's are from SUM and HELD on, after ROWS rows of x and as many more of dy."""
    turn = sums[SUM : SUM + SIZE * SIZE]
    total = sums[SUM + SIZE * SIZE]
    met = held[HELD : HELD + SIZE - 1]
    for r in tl.static_range(ROWS):
        there = row + r + SIZE // 2
        mask = live & (there >= top) & (there < bottom)
        value = tl.load(dy + (at + (r + SIZE // 2) * length), mask=mask, other=0.0).to(total.dtype)
        total += value
        met = met + (value,)  # noqa: RUF005
        taken = turn
        turn = ()
        for tap in tl.static_range(SIZE * SIZE):
            x = values[r * (2 * REACH + 1) + REACH - SIZE // 2 + tap % SIZE]
            turn = turn + (tl.fma(x, met[r + SIZE - 1 - tap // SIZE], taken[tap]),)  # noqa: RUF005
    sums = sums[:SUM] + turn + (total,) + sums[SUM + SIZE * SIZE + 1 :]
    return sums, held[:HELD] + met[ROWS:] + held[HELD + SIZE - 1 :]


@triton.jit
def _sums_kernel(
    xs, dys, partial, columns, programs, height, width,
    C: tl.constexpr, KERNELS: tl.constexpr, START: tl.constexpr, END: tl.constexpr, SHARED: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """partial [program, block of channels, row, lane]: the rows of branches from START to END."""
    ACC: tl.constexpr = partial.dtype.element_ty
    PIXELS: tl.constexpr = LANES // CHANNELS
    RADIUS: tl.constexpr = radius_of(KERNELS, START, END)
    program = (tl.program_id(0) // BLOCKS).to(tl.int64)
    block = tl.program_id(0) % BLOCKS
    lane = tl.arange(0, LANES)
    channel = block * CHANNELS + lane % CHANNELS
    segments, length = tl.cdiv(width, PIXELS), width * C
    first, last = program * columns * height // programs, (program + 1) * columns * height // programs
    sums = zeros(first_sum(KERNELS, START, END), (LANES,), ACC)
    entered = (first // height).to(tl.int32)
    for step in range(tl.cdiv(last, height).to(tl.int32) - entered):
        column = entered + step
        before = column.to(tl.int64) * height
        top, bottom = tl.maximum(first - before, 0).to(tl.int32), tl.minimum(last - before, height).to(tl.int32)
        start, stop = tl.maximum(top - RADIUS, 0), tl.minimum(bottom + RADIUS, height)
        pixel = column % segments * PIXELS + lane // CHANNELS
        live = (lane < PIXELS * CHANNELS) & (channel < C) & (pixel < width)
        at = ((column // segments).to(tl.int64) * height + start) * length + (pixel * C + channel)
        held = ()
        for k in tl.static_range(START, END):
            sums, held = _enter(
                sums, held, dys[k], at, live, start, top, bottom, length, KERNELS[k],
                first_sum(KERNELS, START, k + 1) - 1,
            )  # fmt: skip
        for row in range(start, stop, ROWS):
            if SHARED:
                values = _load_steps(xs[0], at, live, pixel, row, stop, width, length, C, RADIUS, ROWS, ACC)
            for k in tl.static_range(START, END):
                if not SHARED:
                    values = _load_steps(
                        xs[k], at, live, pixel, row, stop, width, length, C, KERNELS[k] // 2, ROWS, ACC
                    )
                sums, held = _correlate(
                    sums, held, values, dys[k], at, live, row, top, bottom, length, KERNELS[k],
                    first_sum(KERNELS, START, k), first_held(KERNELS, START, k), RADIUS if SHARED else KERNELS[k] // 2,
                    ROWS,
                )  # fmt: skip
            at += ROWS * length
    rows = first_row(KERNELS, len(KERNELS))
    to = partial + ((program * BLOCKS + block) * rows + first_row(KERNELS, START)) * LANES + lane
    for i in tl.static_range(first_sum(KERNELS, START, END)):
        tl.store(to + i * LANES, sums[i])


def tap_sums(dy: Sequence[Tensor], x: Sequence[Tensor], kernels: Kernels, by_image: bool, dtype: torch.dtype) -> Tensor:
    """S above and sum dy as [groups, rows, C] of dtype, rows as pack() has them; by_image: a group for each image.

    Args:
        dy: channels_last [N, C, H, W] for each branch.
        x: one channels_last [N, C, H, W] for all branches, or one each.
    """
    n, c, _, _ = x[0].shape
    programs, blocks, rows = _cut(x[0], kernels, by_image)
    partial = x[0].new_empty((programs, blocks, rows, LANES), dtype=dtype)
    _launch(dy, x, kernels, partial)
    return fold(partial, n if by_image else min(GROUPS, programs), c, _channels(c))


def tap_sums_by_image(pairs: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]], kernels: Kernels) -> Tensor:
    """tap_sums of several (dy, x) of one size as [pairs, N, rows, C], float32: one launch adds up what they left."""
    x = pairs[0][1][0]
    n, c, _, _ = x.shape
    programs, blocks, rows = _cut(x, kernels, True)
    partial = x.new_empty((len(pairs), programs, blocks, rows, LANES), dtype=torch.float32)
    for part, (dy, of) in zip(partial.unbind(0), pairs, strict=True):
        _launch(dy, of, kernels, part)
    return fold(partial.flatten(0, 1), len(pairs) * n, c, _channels(c)).view(len(pairs), n, rows, c)


def _cut(x: Tensor, kernels: Kernels, by_image: bool) -> tuple[int, int, int]:
    """Programs that share the pixels (by_image: as many for each image), blocks of channels, rows of sums."""
    n, c, h, w = x.shape
    blocks = cdiv(c, _channels(c))
    shares, images = (n, 1) if by_image else (1, n)
    steps = images * cdiv(w, LANES // _channels(c)) * h
    programs = shares * min(cdiv(steps, STEPS), max(PROGRAMS // (shares * blocks), 1))
    return programs, blocks, sum(kernel * kernel + 1 for kernel in kernels)


def _launch(dy: Sequence[Tensor], x: Sequence[Tensor], kernels: Kernels, partial: Tensor) -> None:
    n, c, h, w = x[0].shape
    shared, channels = len(x) == 1, _channels(c)
    programs, blocks = partial.shape[:2]
    columns = n * cdiv(w, LANES // channels)
    with on_device_of(partial):
        for start, end in _launches(kernels, partial.dtype):
            _sums_kernel[(programs * blocks,)](
                tuple(x), tuple(dy), partial, columns, programs, h, w, C=c, KERNELS=kernels, START=start, END=end,
                SHARED=shared, CHANNELS=channels, BLOCKS=blocks, ROWS=2 if shared else 1, LANES=LANES,
                num_warps=LANES // 32,
            )  # fmt: skip


def _channels(c: int) -> int:
    """How many channels a tile of LANES takes, of pixels as many as fit: with the fewest idle lanes."""

    def idle(blocks: int) -> int:
        channels = cdiv(c, blocks)
        return blocks * (LANES // (LANES // channels)) - c  # in lanes for a pixel

    few = cdiv(c, LANES)
    return cdiv(c, min(range(few, max(few, c // 16) + 1), key=lambda blocks: (idle(blocks), blocks)))


def _launches(kernels: Kernels, dtype: torch.dtype) -> list[tuple[int, int]]:
    """Branches of one launch each, from first to last: as many as leave registers for their sums."""
    most = TAPS // 2 if dtype == torch.float64 else TAPS
    launches, start, taps = [], 0, 0
    for k, kernel in enumerate(kernels):
        if k > start and taps + kernel * kernel > most:
            launches.append((start, k))
            start, taps = k, 0
        taps += kernel * kernel
    return [*launches, (start, len(kernels))]
