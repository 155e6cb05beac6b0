"""Gradients of skaf_descriptor's weights and biases, without u's.

    dW[o, d] = sum over the pixels p with argmax o of dmax[p] * x[p + d] + sum over all p of dmean[p] / total * x[p + d]

The second part is the same for all channels o: one product [taps, pixels] x [pixels, C]. For the first part pixels are
sorted by their argmax (by counting: a histogram for each block of pixels, a cumulative sum, and the rank of a pixel in
its block), and cut into chunks of one length, whatever channels they are of. A program takes a chunk and some
columns of one convolution's window, and writes a sum for each of the chunk's channels, into slot chunk + channel: along
the sorted pixels each step to another sum raises one of the two, so no slot has two sums, and chunks + channels slots
do. A last kernel adds up a channel's sums in order.

Six launches, whatever the number of convolutions: count, correlate, offsets (the cumulative sum, and the product's
parts added up), sort, segments, finish. All sizes follow from shapes: a CUDA graph can hold it.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .skaf_descriptor_forward import FAR, count


@triton.jit
def count_kernel(argmax_ptr, counts_ptr, pixels, blocks, TOTAL: tl.constexpr, BINS: tl.constexpr,
                 BLOCK: tl.constexpr):  # fmt: skip
    """counts [total, blocks]: how many pixels of a block have their maximum in a channel."""
    block = tl.program_id(0).to(tl.int64)
    p = block * BLOCK + tl.arange(0, BLOCK)
    o = tl.load(argmax_ptr + p, mask=p < pixels, other=TOTAL)
    bins = tl.arange(0, BINS)
    tl.store(counts_ptr + bins.to(tl.int64) * blocks + block, tl.histogram(o, BINS), mask=bins < TOTAL)


@triton.jit
def offsets_kernel(counts_ptr, totals_ptr, parts_ptr, sums_ptr, blocks, splits, TOTAL: tl.constexpr,
                  LENGTH: tl.constexpr, PITCH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr,
                  BLOCK: tl.constexpr):  # fmt: skip
    """What lies between the passes over pixels, in one launch.

    A program for each channel: counts [total, blocks] become how many pixels the blocks before have, totals [total].
    And for COLUMNS of what correlate_kernel makes: sums [LENGTH + 1] of parts [splits, PITCH].
    """
    if tl.program_id(0) < TOTAL:
        counts_ptr += tl.program_id(0).to(tl.int64) * blocks
        found = tl.zeros((1,), counts_ptr.dtype.element_ty)
        for start in range(0, blocks, BLOCK):
            block = start + tl.arange(0, BLOCK)
            n = tl.load(counts_ptr + block, mask=block < blocks, other=0)
            tl.store(counts_ptr + block, found + tl.cumsum(n, 0) - n, mask=block < blocks)
            found += tl.sum(n, 0)
        tl.store(totals_ptr + tl.program_id(0) + tl.arange(0, 1), found)
    else:
        k = (tl.program_id(0) - TOTAL) * COLUMNS + tl.arange(0, COLUMNS)
        acc = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, splits, ROWS):
            split = start + tl.arange(0, ROWS)
            mask = (split < splits)[:, None] & (k <= LENGTH)[None, :]
            acc += tl.load(parts_ptr + split[:, None] * PITCH + k[None, :], mask=mask, other=0.0)
        tl.store(sums_ptr + k, tl.sum(acc, 0), mask=k <= LENGTH)


@triton.jit
def sort_kernel(argmax_ptr, dm_ptr, counts_ptr, totals_ptr, bounds_ptr, pixel_ptr, row_ptr, column_ptr, channel_ptr,
                gain_ptr, pixels, blocks, H, W,
                TOTAL: tl.constexpr, BINS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Where a pixel is, its channel and its gradient, in the channels' order; bounds [total + 1] of the channels."""
    block = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, BLOCK), tl.arange(0, BLOCK)
    p = block * BLOCK + i
    there = p < pixels
    o = tl.load(argmax_ptr + p, mask=there, other=TOTAL)
    other = tl.load(argmax_ptr + block * BLOCK + j, mask=block * BLOCK + j < pixels, other=TOTAL)
    same = (o[:, None] == other[None, :]) & (j[None, :] < i[:, None])
    bins = tl.arange(0, BINS)
    totals = tl.load(totals_ptr + bins, mask=bins < TOTAL, other=0)
    bounds = tl.cumsum(totals, 0) - totals
    place = tl.gather(bounds, o, 0) + tl.load(counts_ptr + (o.to(tl.int64) * blocks + block), mask=there, other=0)
    place += tl.sum(same.to(tl.int32), 1)
    image, in_image = p // (H * W), (p % (H * W)).to(tl.int32)
    gain = tl.load(dm_ptr + (2 * image + 1) * (H * W) + in_image, mask=there, other=0.0)
    tl.store(pixel_ptr + place, p.to(pixel_ptr.dtype.element_ty), mask=there)
    tl.store(row_ptr + place, in_image // W, mask=there)
    tl.store(column_ptr + place, in_image % W, mask=there)
    tl.store(channel_ptr + place, o, mask=there)
    tl.store(gain_ptr + place, gain.to(tl.float32), mask=there)
    if block == 0:
        tl.store(bounds_ptr + bins, bounds, mask=bins <= TOTAL)


@triton.jit
def correlate_kernel(x_ptr, dm_ptr, parts_ptr, pixels, H, W, C: tl.constexpr, WINDOW: tl.constexpr,
                     PITCH: tl.constexpr, PRECISION: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_P: tl.constexpr,
                     BLOCK_C: tl.constexpr):  # fmt: skip
    """parts [splits, PITCH]: sums over a split's blocks of pixels of dmean[p - d] * x[p] [taps, C], and of dmean[p]."""
    radius: tl.constexpr = WINDOW // 2
    taps: tl.constexpr = WINDOW * WINDOW
    tap = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    dy = tl.where(tap < taps, tap // WINDOW - radius, FAR)
    dx = tap % WINDOW - radius
    shift = (tap // WINDOW - radius) * W + dx
    split, splits = tl.program_id(2), tl.num_programs(2)
    acc = tl.zeros((BLOCK_T, BLOCK_C), tl.float32)
    total = tl.zeros((BLOCK_P,), tl.float32)
    for step in range(tl.cdiv(tl.cdiv(pixels, BLOCK_P), splits)):
        first = (step * splits + split).to(tl.int64) * BLOCK_P
        p = first + tl.arange(0, BLOCK_P)
        i = (first % (H * W)).to(tl.int32) + tl.arange(0, BLOCK_P)
        row, column = (i // W % H)[None, :] - dy[:, None], (i % W)[None, :] - dx[:, None]
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W) & (p < pixels)[None, :]
        at = i + i // (H * W) * (H * W)  # from the first pixel's image on
        image = dm_ptr + first // (H * W) * (2 * H * W)
        gains = tl.load(image + (at[None, :] - shift[:, None]), mask=inside, other=0.0)
        total += tl.load(image + at, mask=p < pixels, other=0.0).to(tl.float32)
        mask = (p < pixels)[:, None] & (c < C)[None, :]
        x = tl.load(x_ptr + p[:, None] * C + c[None, :], mask=mask, other=0.0)
        acc = tl.dot(gains, x, acc, input_precision=PRECISION)
    parts_ptr += split * PITCH
    tl.store(parts_ptr + (tap[:, None] * C + c[None, :]), acc, mask=(tap < taps)[:, None] & (c < C)[None, :])
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(parts_ptr + taps * C, tl.sum(total, 0))


@triton.jit
def segments_kernel(x_ptr, pixel_ptr, row_ptr, column_ptr, channel_ptr, gain_ptr, bounds_ptr, parts_ptr, dbias_ptr,
                    H, W, C: tl.constexpr, SIZES: tl.constexpr, FIRSTS: tl.constexpr, STARTS: tl.constexpr,
                    WINDOW: tl.constexpr, CHUNK: tl.constexpr, BLOCKS: tl.constexpr):  # fmt: skip
    """A chunk's sums of dmax * x in BLOCKS[i] columns of convolution i's window, which begins at program STARTS[i]."""
    for conv in tl.static_range(count(SIZES)):
        if (tl.program_id(1) >= STARTS[conv]) & (tl.program_id(1) < STARTS[conv + 1]):
            block = tl.program_id(1) - STARTS[conv]
            _segments(x_ptr, pixel_ptr, row_ptr, column_ptr, channel_ptr, gain_ptr, bounds_ptr, parts_ptr, dbias_ptr,
                      block, H, W, C, SIZES[conv], FIRSTS[conv], FIRSTS[conv + 1], WINDOW, CHUNK,
                      2048 // BLOCKS[conv], BLOCKS[conv])  # fmt: skip


@triton.jit
def _segments(x_ptr, pixel_ptr, row_ptr, column_ptr, channel_ptr, gain_ptr, bounds_ptr, parts_ptr, dbias_ptr, block,
              H, W, C: tl.constexpr, SIZE: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
              WINDOW: tl.constexpr, CHUNK: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """Of the convolution of channels FIRST to LAST of u."""
    radius: tl.constexpr = SIZE // 2
    length: tl.constexpr = SIZE * SIZE * C
    pitch: tl.constexpr = WINDOW * WINDOW * C
    chunk = tl.program_id(0)
    k = block * BLOCK + tl.arange(0, BLOCK)
    tap = k // C
    dy = tap // SIZE
    dx = tap - dy * SIZE - radius
    shift = ((dy - radius) * W + dx) * C + (k - tap * C)
    dy = tl.where(k < length, dy - radius, 2 * FAR)
    start = tl.maximum(chunk.to(tl.int64) * CHUNK, tl.load(bounds_ptr + FIRST).to(tl.int64))
    stop = tl.minimum((chunk.to(tl.int64) + 1) * CHUNK, tl.load(bounds_ptr + LAST).to(tl.int64))
    o = tl.load(channel_ptr + start, mask=start < stop, other=0)
    while start < stop:
        end = tl.minimum(tl.load(bounds_ptr + o + 1).to(tl.int64), stop)
        acc = tl.zeros((BLOCK_P, BLOCK), tl.float32)
        bias = tl.zeros((BLOCK_P,), tl.float32)
        for first in range(start, end, BLOCK_P):
            i = first + tl.arange(0, BLOCK_P)
            there = i < end
            gain = tl.load(gain_ptr + i, mask=there, other=0.0)
            pixel = tl.load(pixel_ptr + i, mask=there, other=0).to(tl.int64)
            row = tl.load(row_ptr + i, mask=there, other=-FAR)[:, None] + dy[None, :]
            column = tl.load(column_ptr + i, mask=there, other=0)[:, None] + dx[None, :]
            inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
            x = tl.load((x_ptr + pixel * C)[:, None] + shift[None, :], mask=inside, other=0.0)
            acc += gain[:, None] * x.to(tl.float32)
            bias += gain
        slot = chunk.to(tl.int64) + o
        found = start < end  # a channel without pixels has no slot
        tl.store(parts_ptr + slot * pitch + k, tl.sum(acc, 0), mask=(k < length) & found)
        tl.store(dbias_ptr + slot, tl.sum(bias, 0), mask=found & (block == 0))
        start = tl.maximum(end, start)
        o += 1


@triton.jit
def finish_kernel(parts_ptr, bias_parts_ptr, bounds_ptr, mean_ptr, dweights, dbiases, strides, C: tl.constexpr,
                  SIZES: tl.constexpr, FIRSTS: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
                  BLOCKS: tl.constexpr, BLOCK_S: tl.constexpr):  # fmt: skip
    """A channel's weights' and bias's gradient from its chunks' sums and from what all channels get (mean)."""
    o = tl.program_id(0)
    start, end = tl.load(bounds_ptr + o).to(tl.int64), tl.load(bounds_ptr + o + 1).to(tl.int64)
    # Of a channel without pixels none: last < first.
    first, last = start // CHUNK, tl.where(end > start, (end - 1) // CHUNK, -1)
    for conv in tl.static_range(count(SIZES)):
        there = tl.program_id(1) * BLOCKS[conv] < SIZES[conv] * SIZES[conv] * C
        if (o >= FIRSTS[conv]) & (o < FIRSTS[conv + 1]) & there:
            dw, db = _finished(parts_ptr, bias_parts_ptr, mean_ptr, o, first, last, C, SIZES[conv], WINDOW,
                               FIRSTS[count(SIZES)], BLOCK_S, BLOCKS[conv])  # fmt: skip
            k = tl.program_id(1) * BLOCKS[conv] + tl.arange(0, BLOCKS[conv])
            y, x, c = k // C // SIZES[conv], k // C % SIZES[conv], k % C
            at = dweights[conv] + (o - FIRSTS[conv]).to(tl.int64) * strides[4 * conv]
            at += c * strides[4 * conv + 1] + y * strides[4 * conv + 2] + x * strides[4 * conv + 3]
            tl.store(at, dw.to(dweights[conv].dtype.element_ty), mask=k < SIZES[conv] * SIZES[conv] * C)
            to = dbiases[conv] + (o - FIRSTS[conv])
            tl.store(to, db.to(dbiases[conv].dtype.element_ty), mask=tl.program_id(1) == 0)


@triton.jit
def _finished(parts_ptr, bias_parts_ptr, mean_ptr, o, first, last, C: tl.constexpr, SIZE: tl.constexpr,
              WINDOW: tl.constexpr, TOTAL: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """BLOCK numbers of channel o's weights' gradient, and its bias's."""
    length: tl.constexpr = SIZE * SIZE * C
    pitch: tl.constexpr = WINDOW * WINDOW * C
    inset: tl.constexpr = (WINDOW - SIZE) // 2
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    acc = tl.zeros((BLOCK_S, BLOCK), tl.float32)
    bias = tl.zeros((BLOCK_S,), tl.float32)
    for chunk in range(first, last + 1, BLOCK_S):
        s = chunk + tl.arange(0, BLOCK_S)
        slot = s + o
        mask = (s <= last)[:, None] & (k < length)[None, :]
        acc += tl.load(parts_ptr + slot[:, None] * pitch + k[None, :], mask=mask, other=0.0)
        bias += tl.load(bias_parts_ptr + slot, mask=s <= last, other=0.0)
    y, x, c = k // C // SIZE, k // C % SIZE, k % C
    mean = tl.load(mean_ptr + (((y + inset) * WINDOW + x + inset) * C + c), mask=k < length, other=0.0)
    return tl.sum(acc, 0) + mean / TOTAL, tl.sum(bias, 0) + tl.load(mean_ptr + pitch) / TOTAL
