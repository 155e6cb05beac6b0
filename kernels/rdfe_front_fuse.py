"""The fusing 1x1 convolution of RDFE's front, with the depthwise convolutions on one side of it.

    z = sum_k F_k (a DW2_k(f_k) + b_k) + bias + y;  df'_k = F_k^T dz
    dF_k = sum over pixels of dz (x) (a DW2_k(f_k) + b_k)

A program of fuse_rows has four rows of COLUMNS pixels and every output channel (up to 256, 64 in float32). A block of a
quarter of the padded outputs is filtered in registers (at C = 24, 48, 96 and 192 three such blocks are C: nothing is
padded where the multiplications are), scaled once after the filter because `a` is one number an image and channel, and
multiplied at once by its rows of F. Blocks of 8 channels are dealt out to the even ones of tl.dot's 16, the others are
zero: tensor cores have time. fuse_gradient has one block and up to 128 outputs (32 in float32), and walks over tiles.
Its sizes are not specialized: with one of them known to be 1 it spilled registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .multiscale_dwconv_filter import first_row
from .rdfe_front_rows import four_rows


@triton.jit
def _operand(value, like, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """A tile [COLUMNS, BLOCK] for tl.dot, of the dtype that `like` points to; 8 channels become 16, odd ones zero."""
    value = value.to(like.dtype.element_ty)
    if BLOCK < 16:
        value = tl.reshape(tl.join(value, tl.zeros_like(value)), [COLUMNS, 2 * BLOCK])
    return value


@triton.jit
def _weights(fuse, like, first, start, out, C: tl.constexpr, INPUTS: tl.constexpr, BLOCK: tl.constexpr):
    """Rows of F for _operand's channels: [BLOCK or 16, outputs]; `start` is the branch's place in fuse's rows."""
    SPREAD: tl.constexpr = 2 if BLOCK < 16 else 1
    index = tl.arange(0, SPREAD * BLOCK)[:, None]
    channel = first + index // SPREAD
    inside = (channel < C) & (index % SPREAD == 0) & (out < C)
    return tl.load(fuse + out * INPUTS + start + channel, mask=inside, other=0).to(like.dtype.element_ty)


@triton.jit(do_not_specialize=["across", "down", "channels"])
def fuse_rows(
    f,
    a,
    packed,
    fuse,
    fuse_bias,
    residual,
    z,
    height,
    width,
    across,
    down,
    channels,
    C: tl.constexpr,
    INPUTS: tl.constexpr,
    SIZES: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """z = sum of F_k (a DW2_k(f_k) + b_k) + fuse_bias + residual; INPUTS: fuse's, all branches' channels.

    channels is C again, but not a constant: where one block is all of them the loop must stay one. Without it the
    branches become one stretch of code that holds operands of all at once, and below 16 channels they spilled.
    """
    program = tl.program_id(0)
    n = (program // (across * down)).to(tl.int64)
    row = program // across % down * 4
    column = program % across * COLUMNS + tl.arange(0, COLUMNS)[:, None]
    out = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
    total0 = tl.zeros([COLUMNS, OUTPUTS], tl.float32)
    total1, total2, total3 = total0, total0, total0
    for k in tl.static_range(len(SIZES)):
        for first in range(0, channels, BLOCK):
            channel = first + tl.arange(0, BLOCK)[None, :]
            r0, r1, r2, r3 = four_rows(
                f[k], packed, 0, n, row, column, channel, height, width, C, SIZES, k, TURNED=False, ADD=False
            )
            scale = tl.load(a + n * C + channel, mask=channel < C, other=0)
            shift = tl.load(packed + (first_row(SIZES, k + 1) - 1) * C + channel, mask=channel < C, other=0)
            rows_of_f = _weights(fuse, z, first, k * C, out, C, INPUTS, BLOCK)
            r0 = _operand(r0 * scale + shift, z, COLUMNS, BLOCK)
            r1 = _operand(r1 * scale + shift, z, COLUMNS, BLOCK)
            r2 = _operand(r2 * scale + shift, z, COLUMNS, BLOCK)
            r3 = _operand(r3 * scale + shift, z, COLUMNS, BLOCK)
            total0 = tl.dot(r0, rows_of_f, total0, input_precision=PRECISION)
            total1 = tl.dot(r1, rows_of_f, total1, input_precision=PRECISION)
            total2 = tl.dot(r2, rows_of_f, total2, input_precision=PRECISION)
            total3 = tl.dot(r3, rows_of_f, total3, input_precision=PRECISION)
    added = tl.load(fuse_bias + out, mask=out < C, other=0).to(tl.float32)
    for i in tl.static_range(4):
        total = total0 if i == 0 else (total1 if i == 1 else (total2 if i == 2 else total3))
        at = (n * height + row + i) * width * C + column * C + out
        inside = (row + i < height) & (column < width) & (out < C)
        total += added + tl.load(residual + at, mask=inside, other=0).to(tl.float32)
        tl.store(z + at, total.to(z.dtype.element_ty), mask=inside)


@triton.jit
def fuse_transposed(
    dz,
    fuse,
    df,
    pixels,
    C: tl.constexpr,
    INPUTS: tl.constexpr,
    PIXELS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """df [branch][pixel][channel] = F^T dz: PIXELS pixels, at a time BLOCK channels from DEPTH of dz."""
    first = tl.program_id(0).to(tl.int64) * PIXELS
    pixel = tl.arange(0, PIXELS)[:, None]
    there = first + pixel < pixels
    for k in range(INPUTS // C):
        for start in range(0, C, BLOCK):
            channel = start + tl.arange(0, BLOCK)[None, :]
            total = tl.zeros([PIXELS, BLOCK], tl.float32)
            for depth in range(0, C, DEPTH):
                out = depth + tl.arange(0, DEPTH)
                left = tl.load(dz + first * C + pixel * C + out[None, :], mask=there & (out < C)[None, :], other=0)
                inside = (out < C)[:, None] & (channel < C)
                right = tl.load(fuse + out[:, None] * INPUTS + k * C + channel, mask=inside, other=0).to(left.dtype)
                total = tl.dot(left, right, total, input_precision=PRECISION)
            to = df + (k * tl.cast(pixels, tl.int64) + first) * C + pixel * C + channel
            tl.store(to, total.to(df.dtype.element_ty), mask=there & (channel < C))


@triton.jit(do_not_specialize=["height", "width", "across", "down", "tiles", "splits"])
def fuse_gradient(
    f,
    dz,
    a,
    packed,
    partial,
    partial_bias,
    height,
    width,
    across,
    down,
    tiles,
    splits,
    C: tl.constexpr,
    INPUTS: tl.constexpr,
    SIZES: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    OUTPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """partial[split, output, input] of one branch's block of channels, over every splits-th tile of pixels.

    Programs of one split stand next to each other, so that they find dz in the L2.
    """
    BRANCHES: tl.constexpr = len(SIZES)
    BLOCKS: tl.constexpr = (C + BLOCK - 1) // BLOCK
    k = tl.program_id(0) // BLOCKS % BRANCHES
    block = tl.program_id(0) % BLOCKS
    split = tl.program_id(0) // (BLOCKS * BRANCHES)
    channel = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    out = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
    shift = tl.zeros([1, BLOCK], tl.float32)
    for branch in tl.static_range(BRANCHES):
        own = packed + (first_row(SIZES, branch + 1) - 1) * C + channel
        shift += tl.load(own, mask=(channel < C) & (k == branch), other=0)
    nothing = tl.zeros([COLUMNS, BLOCK], tl.float32)
    total = tl.zeros([OUTPUTS, BLOCK], tl.float32)
    total_bias = tl.zeros([OUTPUTS], tl.float32)
    for tile in range(split, tiles, splits):
        n = (tile // (across * down)).to(tl.int64)
        row = tile // across % down * 4
        column = tile % across * COLUMNS + tl.arange(0, COLUMNS)[:, None]
        r0, r1, r2, r3 = nothing, nothing, nothing, nothing
        for branch in tl.static_range(BRANCHES):
            if k == branch:
                r0, r1, r2, r3 = four_rows(
                    f[branch],
                    packed,
                    0,
                    n,
                    row,
                    column,
                    channel,
                    height,
                    width,
                    C,
                    SIZES,
                    branch,
                    TURNED=False,
                    ADD=False,
                )
        scale = tl.load(a + n * C + channel, mask=channel < C, other=0)
        for i in tl.static_range(4):
            rows = r0 if i == 0 else (r1 if i == 1 else (r2 if i == 2 else r3))
            inside = (row + i < height) & (column < width) & (out < C)
            start = dz + (n * height + row + i) * width * C  # the tile's own offsets stay of 32 bits
            gradient = tl.load(start + (column * C + out), mask=inside, other=0)
            rows = (rows * scale + shift).to(gradient.dtype)
            total = tl.dot(tl.trans(gradient), rows, total, input_precision=PRECISION)
            if (k == 0) & (block == 0):
                total_bias += tl.sum(gradient.to(tl.float32), 0)
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    to = partial + (split.to(tl.int64) * C + o[:, None]) * INPUTS + k * C + channel
    tl.store(to, total, mask=(o < C)[:, None] & (channel < C))
    if (k == 0) & (block == 0):
        tl.store(partial_bias + split * C + o, total_bias, mask=o < C)
