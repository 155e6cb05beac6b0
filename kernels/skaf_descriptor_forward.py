"""Forward of skaf_descriptor: the weights' layout, the implicit GEMM and the pooling in its epilogue.

Weights are laid out as [total + 1, K, K, C] in the data's dtype, K the largest of the sizes, smaller kernels in the
middle of zeros: the rows of a GEMM's transposed right side, and for backward one run of C numbers for each channel and
tap. The last row is the mean of the others, for backward too. One launch makes them for both.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

FAR = tl.constexpr(1 << 24)  # a row so far out is in no image, nor one twice as far that is brought nearer by so much
NO_CHANNEL = tl.constexpr(2**31 - 1)


@triton.constexpr_function
def count(values: tuple[int, ...]) -> int:
    """How many there are."""
    return len(values)


@triton.constexpr_function
def before(widths: tuple[int, ...], i: int) -> int:
    """The first column of block i."""
    return sum(widths[:i])


@triton.constexpr_function
def steps(size: int, channels: int, block: int) -> int:
    """Blocks of the products that make a number of u."""
    return -(-size * size * channels // block)


@triton.jit
def pack_kernel(weights, strides, packed_ptr, C: tl.constexpr, SIZES: tl.constexpr, FIRSTS: tl.constexpr,
                WINDOW: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """BLOCK columns of the packed weights, of convolutions of any strides (four each), and of their mean."""
    length: tl.constexpr = WINDOW * WINDOW * C
    total: tl.constexpr = FIRSTS[count(SIZES)]
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tap = k // C
    acc = tl.zeros((BLOCK_O, BLOCK), tl.float32)
    for conv in tl.static_range(count(SIZES)):
        y = tap // WINDOW - (WINDOW - SIZES[conv]) // 2
        x = tap % WINDOW - (WINDOW - SIZES[conv]) // 2
        inside = (y >= 0) & (y < SIZES[conv]) & (x >= 0) & (x < SIZES[conv])
        at = weights[conv] + ((k % C) * strides[4 * conv + 1] + y * strides[4 * conv + 2] + x * strides[4 * conv + 3])
        for start in range(0, FIRSTS[conv + 1] - FIRSTS[conv], BLOCK_O):
            o = start + tl.arange(0, BLOCK_O)
            row = (o < FIRSTS[conv + 1] - FIRSTS[conv])[:, None]
            from_o = (o.to(tl.int64) * strides[4 * conv])[:, None]
            w = tl.load(at[None, :] + from_o, mask=row & inside[None, :], other=0.0).to(packed_ptr.dtype.element_ty)
            to = packed_ptr + ((FIRSTS[conv] + o)[:, None] * length + k[None, :])
            tl.store(to, w, mask=row & (k < length)[None, :])
            acc += w.to(tl.float32)
    mean = tl.sum(acc, 0) / total
    tl.store(packed_ptr + total * length + k, mean.to(packed_ptr.dtype.element_ty), mask=k < length)


@triton.jit
def channels_of(column, TOTAL: tl.constexpr, STARTS: tl.constexpr, SHIFTS: tl.constexpr):
    """The channels of u that the GEMM's columns are: its convolutions are in order of falling size, those of u not."""
    o = column
    for i in tl.static_range(count(STARTS)):
        o = tl.where(column >= STARTS[i], column + SHIFTS[i], o)
    return tl.where(column < TOTAL, o, NO_CHANNEL)


@triton.jit
def biases_of(o, first_ptr, rest_ptr, TOTAL: tl.constexpr, FIRST: tl.constexpr):
    """Of the channels o; the first convolution's are in a tensor of their own."""
    bias = tl.load(first_ptr + o, mask=o < FIRST, other=0.0).to(tl.float32)
    if FIRST < TOTAL:
        bias += tl.load(rest_ptr + (o - FIRST), mask=(o >= FIRST) & (o < TOTAL), other=0.0).to(tl.float32)
    return bias


@triton.jit
def pooled(u, o, total, best, found):
    """u [M, B], of the channels o [B], joins the sum, the maximum and its first index [M]; as in torch.max NaN wins."""
    there = (o != NO_CHANNEL)[None, :]
    nan = (u != u) & there
    any_nan = tl.max(nan.to(tl.int32), 1) > 0
    largest = tl.max(tl.where((u == u) & there, u, -float("inf")), 1)
    hit = tl.where(any_nan[:, None], nan, u == largest[:, None]) & there
    first = tl.min(tl.where(hit, o[None, :], NO_CHANNEL), 1)
    value = tl.where(any_nan, float("nan"), largest)
    same = (value == best) | (any_nan & (best != best))
    better = (value > best) | (any_nan & (best == best)) | (same & (first < found))
    total += tl.sum(tl.where(there, u, 0.0), 1)
    return total, tl.where(better, value, best), tl.where(better, first, found)


@triton.jit
def convolved(x_ptr, w_ptr, pixel, y, x, o, H, W, first, last,
              C: tl.constexpr, SIZE: tl.constexpr, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr,
              BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """u [BLOCK_M, BLOCK_N] without bias: blocks first to last of the SIZE * SIZE * C products that make it.

    x_ptr is at the tile's first pixel; pixel, y and x [BLOCK_M] say where its pixels are, o [BLOCK_N] the channels.
    """
    radius: tl.constexpr = SIZE // 2
    inset: tl.constexpr = (WINDOW - SIZE) // 2
    length: tl.constexpr = SIZE * SIZE * C
    pixel *= C
    there = o != NO_CHANNEL
    rows = w_ptr + tl.where(there, o, 0).to(tl.int64) * (WINDOW * WINDOW * C)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for block in range(first, last):
        # Neighbours are of one tap as long as C's powers of two are, so that the compiler loads whole vectors.
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        tap = k // C
        dy = tap // SIZE
        dx = tap - dy * SIZE
        c = k - tap * C
        within = k < length
        row = y[:, None] + tl.where(within, dy - radius, 2 * FAR)[None, :]
        column = x[:, None] + (dx - radius)[None, :]
        shift = ((dy - radius) * W + (dx - radius)) * C + c
        inside = (row >= 0) & (row < H) & (column >= 0) & (column < W)
        a = tl.load(x_ptr + (pixel[:, None] + shift[None, :]), mask=inside, other=0.0)
        place = ((dy + inset) * WINDOW + dx + inset) * C + c
        b = tl.load(rows[None, :] + place[:, None], mask=within[:, None] & there[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    return acc


@triton.jit
def places(pixels, H, W, BLOCK_M: tl.constexpr, TILED: tl.constexpr):
    """A program's first pixel (int64), and [BLOCK_M]: its pixels from there on, their rows and their columns.

    TILED: 16 wide, of images that this divides, so that their windows overlap most and are in L1. Else one after the
    other, and FAR out where there are no more of them.
    """
    i = tl.arange(0, BLOCK_M)
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    image = first // (H * W) * (H * W)
    within = (first - image).to(tl.int32)
    if TILED:
        tile = within // BLOCK_M
        y = tile // (W // 16) * (BLOCK_M // 16)
        x = tile % (W // 16) * 16
        return image + y * W + x, i // 16 * W + i % 16, y + i // 16, x + i % 16
    y = (within + i) // W % H
    return first, i, tl.where(first + i < pixels, y, -FAR), (within + i) % W


@triton.jit
def put(total, best, found, m_ptr, argmax_ptr, p, there, HW, TOTAL: tl.constexpr):
    at = m_ptr + p // HW * 2 * HW + p % HW
    tl.store(at, (total / TOTAL).to(m_ptr.dtype.element_ty), mask=there)
    tl.store(at + HW, best.to(m_ptr.dtype.element_ty), mask=there)
    tl.store(argmax_ptr + p, found, mask=there)


def _configurations(configs: list[triton.Config], arguments: dict[str, Any], **given: Any) -> list[triton.Config]:
    """Large tiles are for tensor cores: 16 bits, or tf32; the last configuration is for all others."""
    if arguments["x_ptr"].dtype.itemsize == 2:
        return configs[:-2]
    return configs[-2:-1] if given["PRECISION"] == "tf32" else configs[-1:]


# BLOCK_M, BLOCK_K, num_warps, num_stages. Copies of several stages pass L1 by; windows overlap, so that at small C the
# loads of a single stage, which do not, may be the faster ones.
TILES = ((128, 64, 8, 3), (64, 64, 4, 3), (128, 64, 8, 1), (64, 64, 4, 1), (64, 32, 4, 3), (32, 16, 8, 2))


@triton.autotune(
    [triton.Config({"BLOCK_M": m, "BLOCK_K": k}, num_warps=n, num_stages=s) for m, k, n, s in TILES],
    key=["C", "TOTAL", "WINDOW", "PRECISION", "TILED"],
    prune_configs_by={"early_config_prune": _configurations},
    cache_results=True,
)
@triton.jit
def descriptor_kernel(x_ptr, w_ptr, first_ptr, rest_ptr, m_ptr, argmax_ptr, pixels, H, W,
                      C: tl.constexpr, WINDOW: tl.constexpr, TOTAL: tl.constexpr, FIRST: tl.constexpr,
                      STARTS: tl.constexpr, SHIFTS: tl.constexpr, WIDTHS: tl.constexpr, SIZES: tl.constexpr,
                      PRECISION: tl.constexpr, TILED: tl.constexpr,
                      BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """m and argmax of BLOCK_M pixels; blocks of columns, WIDTHS wide with kernels of SIZES, one after the other."""
    first_pixel, pixel, y, x = places(pixels, H, W, BLOCK_M, TILED)
    total = tl.zeros((BLOCK_M,), tl.float32)
    best = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    found = tl.full((BLOCK_M,), NO_CHANNEL, tl.int32)
    for i in tl.static_range(count(WIDTHS)):
        o = channels_of(before(WIDTHS, i) + tl.arange(0, WIDTHS[i]), TOTAL, STARTS, SHIFTS)
        u = convolved(x_ptr + first_pixel * C, w_ptr, pixel, y, x, o, H, W, 0, steps(SIZES[i], C, BLOCK_K), C,
                      SIZES[i], WINDOW, BLOCK_M, WIDTHS[i], BLOCK_K, PRECISION)  # fmt: skip
        u += biases_of(o, first_ptr, rest_ptr, TOTAL, FIRST)[None, :]
        total, best, found = pooled(u, o, total, best, found)
    put(total, best, found, m_ptr, argmax_ptr, first_pixel + pixel, y >= 0, H * W, TOTAL)


@triton.jit
def parts_kernel(x_ptr, w_ptr, parts_ptr, pixels, H, W, C: tl.constexpr, WINDOW: tl.constexpr, TOTAL: tl.constexpr,
                 STARTS: tl.constexpr, SHIFTS: tl.constexpr, WIDTHS: tl.constexpr, SIZES: tl.constexpr,
                 COLUMNS: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr, TILED: tl.constexpr,
                 BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """For few pixels: parts [SPLITS, pixels, COLUMNS] of u, one block of columns and one part of its sum a program."""
    split = tl.program_id(2)
    first_pixel, pixel, y, x = places(pixels, H, W, BLOCK_M, TILED)
    p = first_pixel + pixel
    rows = parts_ptr + (split * pixels + p) * COLUMNS
    for i in tl.static_range(count(WIDTHS)):
        if tl.program_id(1) == i:
            column = before(WIDTHS, i) + tl.arange(0, WIDTHS[i])
            o = channels_of(column, TOTAL, STARTS, SHIFTS)
            first = steps(SIZES[i], C, BLOCK_K) * split // SPLITS
            last = steps(SIZES[i], C, BLOCK_K) * (split + 1) // SPLITS
            u = convolved(x_ptr + first_pixel * C, w_ptr, pixel, y, x, o, H, W, first, last, C, SIZES[i], WINDOW,
                          BLOCK_M, WIDTHS[i], BLOCK_K, PRECISION)  # fmt: skip
            tl.store(rows[:, None] + column[None, :], u, mask=(y >= 0)[:, None])


@triton.jit
def pool_kernel(parts_ptr, first_ptr, rest_ptr, m_ptr, argmax_ptr, pixels, HW, TOTAL: tl.constexpr,
                FIRST: tl.constexpr, STARTS: tl.constexpr, SHIFTS: tl.constexpr, COLUMNS: tl.constexpr,
                SPLITS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """The parts of u added up, and pooled."""
    p = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M,), tl.float32)
    best = tl.full((BLOCK_M,), -float("inf"), tl.float32)
    found = tl.full((BLOCK_M,), NO_CHANNEL, tl.int32)
    for start in range(0, COLUMNS, BLOCK_N):
        column = start + tl.arange(0, BLOCK_N)
        u = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for split in range(SPLITS):
            rows = parts_ptr + (split * pixels + p) * COLUMNS
            u += tl.load(rows[:, None] + column[None, :], mask=(p < pixels)[:, None] & (column < COLUMNS)[None, :],
                         other=0.0)  # fmt: skip
        o = channels_of(column, TOTAL, STARTS, SHIFTS)
        u += biases_of(o, first_ptr, rest_ptr, TOTAL, FIRST)[None, :]
        total, best, found = pooled(u, o, total, best, found)
    put(total, best, found, m_ptr, argmax_ptr, p, p < pixels, HW, TOTAL)
