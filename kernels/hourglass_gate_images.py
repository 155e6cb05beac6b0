"""hourglass_gate's passes over z, x and dy: the gate and y, the gradients of x, and the sums over all programs."""

from __future__ import annotations

import triton
import triton.language as tl

from ._gates import located
from .hourglass_gate_maps import folded, normed


@triton.jit
def _reflected(i, size):
    return tl.where(i < 0, tl.minimum(1, size - 1), tl.where(i == size, tl.maximum(0, size - 2), i))


@triton.jit
def gated(
    z,
    x,
    x_scale,
    x_shift,
    products,
    bias,
    y,
    gate,
    pixels,
    height,
    width,
    C: tl.constexpr,
    PIECE: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * PIECE
    pixel = tl.arange(0, PIECE)
    live = first + pixel < pixels
    channel = tl.arange(0, CHANNELS)
    here = live[:, None] & (channel < C)[None, :]
    element = first * C + (pixel[:, None] * C + channel[None, :])
    # What comes from far is asked for first.
    from_z = tl.load(z + element, here, 0).to(tl.float32)
    _, _, of_x = normed(x, x_scale, x_shift, element, here, channel, channel < C)
    image, further, row, column = located(first, height, width, PIECE)
    plane = products + image * height * width
    logit = tl.zeros((PIECE,), tl.float32) + tl.load(bias).to(tl.float32)
    for ky in tl.static_range(3):
        at = (further * height + _reflected(row + (ky - 1), height)) * width
        for kx in tl.static_range(3):
            logit += tl.load(plane + at + _reflected(column + (kx - 1), width), live, 0)
            plane += pixels
    value = tl.sigmoid(logit)
    tl.store(gate + first + pixel, value, live)
    tl.store(y + element, from_z + of_x * value[:, None], here)


@triton.jit
def x_backward(
    dy,
    x,
    x_scale,
    x_shift,
    gate,
    dx,
    dlogit,
    partial,
    pixels,
    steps,
    C: tl.constexpr,
    PIECE: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """dx, dlogit, and the sums over steps * PIECE pixels for scale, shift and bias, partial [programs][2 * C + 1]."""
    channel = tl.arange(0, CHANNELS)
    known = channel < C
    of_scale = tl.zeros((ROWS, CHANNELS), tl.float32)
    of_shift = tl.zeros((ROWS, CHANNELS), tl.float32)
    of_bias = tl.zeros((PIECE,), tl.float32)
    for step in range(steps):
        first = (tl.program_id(0).to(tl.int64) * steps + step) * PIECE
        pixel = tl.arange(0, PIECE)
        live = first + pixel < pixels
        here = live[:, None] & known[None, :]
        element = first * C + (pixel[:, None] * C + channel[None, :])
        d = tl.load(dy + element, here, 0).to(tl.float32)
        from_x, by_x, of_x = normed(x, x_scale, x_shift, element, here, channel, known)
        w = tl.load(gate + first + pixel, live, 0)
        before = tl.sum(d * of_x, 1) * w * (1 - w)
        tl.store(dlogit + first + pixel, before, live)
        d *= w[:, None]
        tl.store(dx + element, d * by_x, here)
        of_scale += folded(d * from_x, ROWS)
        of_shift += folded(d, ROWS)
        of_bias += before
    partial += tl.program_id(0).to(tl.int64) * (2 * C + 1)
    tl.store(partial + channel, tl.sum(of_scale, 0), known)
    tl.store(partial + C + channel, tl.sum(of_shift, 0), known)
    tl.store(partial + 2 * C, tl.sum(of_bias, 0))


@triton.jit
def _added(partial, rows, PITCH: tl.constexpr, column, known, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Columns of partial [rows][PITCH], added over the rows."""
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        here = (row < rows)[:, None] & known[None, :]
        total += tl.load(partial + row.to(tl.int64)[:, None] * PITCH + column[None, :], here, 0)
    return tl.sum(total, 0)


@triton.jit
def add_sums(
    of_x,
    of_maps,
    x_scale,
    x_shift,
    a_scale,
    a_shift,
    b_scale,
    b_shift,
    weight,
    bias,
    x_programs,
    map_programs,
    C: tl.constexpr,
    M: tl.constexpr,
    STRIDES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The gradients of the parameters from of_x [programs][2 * C + 1] and of_maps [programs][13][M]."""
    which = tl.program_id(1)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    known = column < M
    if which < 13:
        total = _added(of_maps + which * M, map_programs, 13 * M, column, known, ROWS, COLUMNS)
        if which < 9:
            tl.store(weight + column * STRIDES[1] + (which // 3 * STRIDES[2] + which % 3 * STRIDES[3]), total, known)
        elif which == 9:
            tl.store(a_scale + column, total, known)
        elif which == 10:
            tl.store(a_shift + column, total, known)
        elif which == 11:
            tl.store(b_scale + column, total, known)
        else:
            tl.store(b_shift + column, total, known)
    else:
        known = column < 2 * C + 1
        total = _added(of_x, x_programs, 2 * C + 1, column, known, ROWS, COLUMNS)
        tl.store(x_scale + column, total, column < C)
        tl.store(x_shift + column - C, total, (column >= C) & (column < 2 * C))
        tl.store(bias + column - 2 * C, total, column == 2 * C)
