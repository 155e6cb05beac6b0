"""Sums of y over what each tap meets, from which the attention unit knows the means of the convolutions of y.

    sums[n, i, j, c] = sum over p of y[n, p + (i, j) - reach, c]

y is read once and nothing of its size is written: `_columns` adds rows away from the border up in chunks (a flat axis
of pixel and channel, so that no lane idles at C = 24) and writes 1/8 of an image; `_windows` adds those sums and the
few border rows that a tap's row meets, columns near the border apart from the others, which every tap meets. Only what
is met is added, nothing is taken away, so a tap that meets no pixel has exactly 0. No atomics: chunks depend on the
shape alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import all_registers_before_3_7, cdiv, next_power_of_2

CHUNK = 16  # rows that one program of _columns adds up
LANES = 1024
PIXELS, CHANNELS = 64, 32  # of a tile of _windows


@triton.jit
def _columns(
    y, columns, height, width, first, chunks, blocks, C: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr
):
    """columns[n, chunk, x, c] = sum of y over the chunk's rows, which leave `first` rows out on either border."""
    program = tl.program_id(0)
    lane = program % blocks * LANES + tl.arange(0, LANES)
    chunk, n = program // blocks % chunks, program // blocks // chunks
    row = first + chunk * ROWS
    size = width * C
    inside = lane < size
    start = y + (n.to(tl.int64) * height + row) * size
    total = tl.zeros([LANES], tl.float32)
    for i in tl.static_range(ROWS):
        total += tl.load(start + i * size + lane, mask=inside & (row + i < height - first), other=0).to(tl.float32)
    tl.store(columns + (n.to(tl.int64) * chunks + chunk) * size + lane, total, mask=inside)


@triton.jit
def _met_rows(y, columns, n, offset, inside, top, bottom, height, width, chunks, C: tl.constexpr, REACH: tl.constexpr):
    """Sums over rows top ... bottom - 1, of pixels and channels at `offset` in a row."""
    rows = tl.zeros_like(offset).to(tl.float32)
    for i in range(chunks):
        rows += tl.load(columns + (n * chunks + i) * width * C + offset, mask=inside, other=0)
    for i in tl.static_range(2 * REACH):
        row = i if i < REACH else height - 2 * REACH + i
        met = (row >= top) & (row < bottom)
        if i >= REACH:
            met = met & (row >= REACH)  # not one of the first rows again
        rows += tl.load(y + (n * height + row) * width * C + offset, mask=inside & met, other=0).to(tl.float32)
    return rows


@triton.jit
def _windows(
    y,
    columns,
    sums,
    height,
    width,
    chunks,
    C: tl.constexpr,
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """sums[n, tap row, :, c] of a block of channels: PIXELS columns at a time, and those near the border one by one."""
    REACH: tl.constexpr = SIZE // 2
    n, tap_row = (tl.program_id(0) // SIZE).to(tl.int64), tl.program_id(0) % SIZE
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    # Rows of y that the tap meets.
    top, bottom = tl.maximum(tap_row - REACH, 0), tl.minimum(height + tap_row - REACH, height)
    middle = tl.zeros([PIXELS, BLOCK], tl.float32)
    for x in range(REACH, width - REACH, PIXELS):
        pixel = x + tl.arange(0, PIXELS)[:, None]
        inside = (pixel < width - REACH) & (channel < C)
        middle += _met_rows(y, columns, n, pixel * C + channel, inside, top, bottom, height, width, chunks, C, REACH)
    # The first REACH columns and the last, none of them twice.
    j = tl.arange(0, PADDED)
    pixel = tl.where(j < REACH, j, width - 2 * REACH + j)
    there = (j < 2 * REACH) & (pixel < width) & ((j < REACH) | (pixel >= REACH))
    inside = there[:, None] & (channel < C)
    offset = pixel[:, None] * C + channel
    border = _met_rows(y, columns, n, offset, inside, top, bottom, height, width, chunks, C, REACH)
    tap = tl.arange(0, PADDED)[:, None]
    met = (pixel[None, :] >= tap - REACH) & (pixel[None, :] < width + tap - REACH)
    total = tl.sum(tl.where(met[:, :, None], border[None, :, :], 0), 1) + tl.sum(middle, 0)[None, :]
    to = sums + ((n * SIZE + tap_row) * SIZE + tap) * C + channel
    tl.store(to, total, mask=(tap < SIZE) & (channel < C))


def window_sums(y: Tensor, size: int) -> Tensor:
    """y [N, C, H, W], channels_last -> [N, size, size, C], float32."""
    n, c, h, w = y.shape
    reach = size // 2
    chunks = cdiv(max(h - 2 * reach, 0), CHUNK)
    sums = y.new_empty((n, size, size, c), dtype=torch.float32)
    columns = y.new_empty((n, chunks, w, c), dtype=torch.float32) if chunks else sums
    if chunks:
        # Without whole vectors of 16 bytes in a row each lane has addresses of its own, which take registers.
        lanes = LANES if w * c * y.element_size() % 16 == 0 else LANES // 4
        blocks = cdiv(w * c, lanes)
        _columns[(n * chunks * blocks,)](y, columns, h, w, reach, chunks, blocks, c, CHUNK, lanes, num_warps=4)
    padded = max(next_power_of_2(size), 2)
    block = max(1, min(CHANNELS, next_power_of_2(max(c, 8)), 2048 // padded**2))
    _windows[n * size, cdiv(c, block)](
        y, columns, sums, h, w, chunks, c, size, padded, PIXELS, block, num_warps=4, **all_registers_before_3_7()
    )
    return sums
