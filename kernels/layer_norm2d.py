"""y = (x - mean) * rstd * weight + bias over the channels of each pixel.

Forward reads x and writes y and two numbers a pixel; backward reads x and dy and writes dx, and sums dy and dy * xhat
over the pixels. A tile is [rows, channels] with whole rows, so that everything is read once. A row is padded to a power
of two: at 24 channels a quarter of the lanes is masked, which moves no bytes (C is a constant of the kernel, so loads
stay whole vectors of neighbouring threads) and costs issue slots only, of which forward fills about two fifths in the
time its bytes take. Tiles of three times a power of two would leave no lane idle but halve the width of the accesses.

The sums for dweight and dbias have two stages: a fixed number of programs each adds up its rows in order, and a second
kernel (_totals.py) adds up the programs'. So they are the same every time, and backward is two launches.

Floors on an H200 (3.0 TB/s), batch 32, bfloat16:

    size      forward MB   us   backward MB   us   MFLOP forward, backward
    24@128            55   18            80   27    101, 176
    48@64             26    9            39   13     50,  88
    96@32             13    4            19    6     25,  44
    192@16             6    2            10    3     13,  22
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import TYPES, accumulator, cdiv, channels_last, memory_format, on_device_of, row_tile, warps
from ._totals import Total, add_up

PROGRAMS = 1024  # that share the pixels backward: eight blocks for each multiprocessor of the largest GPUs
BACKWARD_TILE = 1024  # where five tensors are held at once, and more of each would spill at odd channels
WIDEST = 2048  # channels in one tile; wider rows are left to torch's own layer norm


@triton.jit
def _forward(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, pixels,
    C: tl.constexpr, EPS: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * ROWS
    rows, c = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    here = rows < pixels - first
    mask = here[:, None] & (c < C)[None, :]
    at = rows[:, None] * C + c[None, :]
    x = tl.load(x_ptr + first * C + at, mask=mask, other=0.0).to(ACC)
    mean = tl.sum(x, 1) / C
    centred = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / C + EPS)
    weight = tl.load(weight_ptr + c, mask=c < C, other=0.0).to(ACC)
    bias = tl.load(bias_ptr + c, mask=c < C, other=0.0).to(ACC)
    y = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(y_ptr + first * C + at, y.to(y_ptr.dtype.element_ty), mask=mask)
    tl.store(mean_ptr + first + rows, mean, mask=here)
    tl.store(rstd_ptr + first + rows, rstd, mask=here)


@triton.jit
def _backward(
    dy_ptr, x_ptr, weight_ptr, mean_ptr, rstd_ptr, dx_ptr, sums_ptr, pixels, tiles,
    C: tl.constexpr, ACC: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    rows, c = tl.arange(0, ROWS), tl.arange(0, WIDTH)
    weight = tl.load(weight_ptr + c, mask=c < C, other=0.0).to(ACC)
    dweight = tl.zeros((ROWS, WIDTH), ACC)
    dbias = tl.zeros((ROWS, WIDTH), ACC)
    first = program.to(tl.int64) * ROWS
    for _ in range(program, tiles, programs):
        here = rows < pixels - first
        mask = here[:, None] & (c < C)[None, :]
        at = rows[:, None] * C + c[None, :]
        x = tl.load(x_ptr + first * C + at, mask=mask, other=0.0).to(ACC)
        dy = tl.load(dy_ptr + first * C + at, mask=mask, other=0.0).to(ACC)
        mean = tl.load(mean_ptr + first + rows, mask=here, other=0.0)
        rstd = tl.load(rstd_ptr + first + rows, mask=here, other=0.0)
        normal = tl.where(mask, (x - mean[:, None]) * rstd[:, None], 0.0)
        dweight += dy * normal
        dbias += dy
        g = dy * weight[None, :]
        dx = (g - (tl.sum(g, 1) / C)[:, None] - normal * (tl.sum(g * normal, 1) / C)[:, None]) * rstd[:, None]
        tl.store(dx_ptr + first * C + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
        first += programs * ROWS
    sums_ptr += program * C + c
    tl.store(sums_ptr, tl.sum(dweight, 0), mask=c < C)
    tl.store(sums_ptr + programs * C, tl.sum(dbias, 0), mask=c < C)


def layer_norm2d_fwd(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    image, (n, c, h, w) = channels_last(x), x.shape
    acc = accumulator(x)
    if c > WIDEST:
        rows = image.permute(0, 2, 3, 1).to(acc)
        y, mean, rstd = torch.native_layer_norm(rows, [c], weight.to(acc), bias.to(acc), eps)
        y = y.to(x.dtype).permute(0, 3, 1, 2).contiguous(memory_format=memory_format(x))
        return y, mean.view(n, h, w), rstd.view(n, h, w)
    y = torch.empty_like(image)
    mean, rstd = (x.new_empty((n, h, w), dtype=acc) for _ in range(2))
    rows, width = row_tile(c)
    pixels = n * h * w
    with on_device_of(x):
        _forward[(cdiv(pixels, rows),)](
            image, weight.contiguous(), bias.contiguous(), y, mean, rstd, pixels,
            C=c, EPS=eps, ACC=TYPES[acc], ROWS=rows, WIDTH=width, num_warps=warps(rows * width),
        )  # fmt: skip
    return y.contiguous(memory_format=memory_format(x)), mean, rstd


def layer_norm2d_bwd(
    dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dy, image, (n, c, h, w) = channels_last(dy), channels_last(x), x.shape
    acc = accumulator(x)
    if c > WIDEST:
        rows, drows = (t.permute(0, 2, 3, 1).to(acc) for t in (image, dy))
        found = torch.ops.aten.native_layer_norm_backward(
            drows, rows, [c], mean[..., None], rstd[..., None], weight.to(acc), weight.to(acc), [True] * 3
        )
        dx = found[0].to(x.dtype).permute(0, 3, 1, 2).contiguous(memory_format=memory_format(x))
        return dx, found[1].to(weight.dtype), found[2].to(weight.dtype)
    dx = torch.empty_like(image)
    rows, width = row_tile(c, BACKWARD_TILE)
    pixels = n * h * w
    tiles = cdiv(pixels, rows)
    sums = x.new_empty((2, min(tiles, PROGRAMS), c), dtype=acc)
    dweight, dbias = weight.new_empty(c), weight.new_empty(c)
    with on_device_of(x):
        _backward[(sums.shape[1],)](
            dy, image, weight.contiguous(), mean, rstd, dx, sums, pixels, tiles,
            C=c, ACC=TYPES[acc], ROWS=rows, WIDTH=width, num_warps=warps(rows * width, 8),
        )  # fmt: skip
    add_up([Total(sums[0], dweight), Total(sums[1], dbias)])
    return dx.contiguous(memory_format=memory_format(x)), dweight, dbias
