"""y = residual + g * w1 + local * w2 with w1, w2 = sigmoid(conv KxK (m) + bias), and its gradients.

Data is [pixel][channel].

Forward, one launch: a program takes a run of pixels, across rows and images. Its threads hold several pixels each for
the convolution, so that a weight that all of them read is read once for all, and then pass over the channels of the
run a piece at a time. The piece is [pixels, C rounded up to a power of two]: for C = 24 a quarter of the lanes idle,
but they move no byte, a row stays whole in memory, and a gate is fetched once a thread; flattened to pixel x channel,
every element would need two gates of its own and a division, 88 instructions for eight elements instead of 67.
Backward, at most four launches: dg, dlocal and dz (the gradient before the sigmoid) in one pass over the data; dm, the
convolution of dz with the weight turned by half a turn; dweight and dbias as sums over fixed runs of pixels, which a
last launch adds in a fixed order.

Floors in bf16 at batch 32 and K = 7 (one MB = 1e6 bytes, 3.0 TB/s; the convolutions are 0.1 to 0.4 GMAC, below all of
them). Forward reads m, g, local, residual and writes y and the gates; backward reads dy, g, local, gates, m and dz
twice, and writes dg, dlocal, dz, dm.

    size      forward MB    floor us    backward MB    floor us
    24@128         109.1        36.4          151.0        50.3
    48@64           52.4        17.5           69.2        23.1
    96@32           25.7         8.6           33.0        11.0
    192@16          12.7         4.2           16.1         5.4
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import TYPES, accumulator, cdiv, channels_last, next_power_of_2, on_device_of
from ._gates import PROGRAMS, Result, piece_of
from .skaf_gate_maps import add_sums, convolved, places, transposed, weight_sums


@triton.jit
def _forward(
    m,
    weight,
    bias,
    g,
    local,
    residual,
    y,
    gates,
    pixels,
    height,
    width,
    C: tl.constexpr,
    K: tl.constexpr,
    STRIDES: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PIXELS: tl.constexpr,
    PIECE: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * PIXELS
    z1, z2 = convolved(m, weight, first, pixels, height, width, K, STRIDES, False, PIXELS, ACC)
    w1 = tl.sigmoid(z1 + tl.load(bias).to(ACC))
    w2 = tl.sigmoid(z2 + tl.load(bias + 1).to(ACC))
    _, _, base, at = places(first, height, width, PIXELS)
    live = first + tl.arange(0, PIXELS) < pixels
    tl.store(gates + base + at, w1, live)
    tl.store(gates + base + height * width + at, w2, live)
    channel = tl.arange(0, CHANNELS)[None, :]
    for start in tl.static_range(0, PIXELS, PIECE):
        pixel = start + tl.arange(0, PIECE)
        here = (first + pixel < pixels)[:, None] & (channel < C)
        element = first * C + (pixel[:, None] * C + channel)
        # The loads come before the exchange of gates, which waits for all threads.
        from_g = tl.load(g + element, here, 0).to(ACC)
        from_local = tl.load(local + element, here, 0).to(ACC)
        total = tl.load(residual + element, here, 0).to(ACC) if HAS_RESIDUAL else tl.zeros((PIECE, CHANNELS), ACC)
        v1 = w1 if PIXELS == PIECE else tl.gather(w1, pixel, 0)
        v2 = w2 if PIXELS == PIECE else tl.gather(w2, pixel, 0)
        tl.store(y + element, total + from_g * v1[:, None] + from_local * v2[:, None], here)


@triton.jit
def _branches(
    dy,
    g,
    local,
    gates,
    dg,
    dlocal,
    dz,
    pixels,
    height,
    width,
    C: tl.constexpr,
    NEED_BRANCHES: tl.constexpr,
    NEED_MAPS: tl.constexpr,
    PIECE: tl.constexpr,
    CHANNELS: tl.constexpr,
    ACC: tl.constexpr,
):
    """dg, dlocal, and the gradient before the sigmoid, dz [N, 2, H, W]."""
    first = tl.program_id(0).to(tl.int64) * PIECE
    pixel = tl.arange(0, PIECE)
    live = first + pixel < pixels
    _, _, base, at = places(first, height, width, PIECE)
    map2 = height * width
    channel = tl.arange(0, CHANNELS)[None, :]
    here = live[:, None] & (channel < C)
    element = first * C + (pixel[:, None] * C + channel)
    d = tl.load(dy + element, here, 0).to(ACC)
    w1 = tl.load(gates + base + at, live, 0)
    w2 = tl.load(gates + base + map2 + at, live, 0)
    if NEED_MAPS:
        sum1 = tl.sum(d * tl.load(g + element, here, 0).to(ACC), 1)
        sum2 = tl.sum(d * tl.load(local + element, here, 0).to(ACC), 1)
        tl.store(dz + base + at, sum1 * w1 * (1 - w1), live)
        tl.store(dz + base + map2 + at, sum2 * w2 * (1 - w2), live)
    if NEED_BRANCHES:
        tl.store(dg + element, d * w1[:, None], here)
        tl.store(dlocal + element, d * w2[:, None], here)


def skaf_gate_fwd(
    m: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor,
    local: Tensor,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y and the gates [N, 2, H, W]."""
    n, c, h, w = g.shape
    acc = accumulator(g)
    gates = torch.empty((n, 2, h, w), dtype=acc, device=g.device)
    y = Result(g)
    pixels, (piece, channels) = n * h * w, piece_of(g)
    run = piece * next(pieces for pieces in (4, 2, 1) if pieces == 1 or pixels >= 512 * pieces * piece)
    of_g = channels_last(g)
    last = of_g if residual is None else channels_last(residual)  # not read where there is none
    with on_device_of(g):
        _forward[(cdiv(pixels, run),)](
            m.contiguous(),
            weight,
            bias.contiguous(),
            of_g,
            channels_last(local),
            last,
            y.pixels,
            gates,
            pixels,
            h,
            w,
            C=c,
            K=weight.shape[-1],
            STRIDES=weight.stride(),
            HAS_RESIDUAL=residual is not None,
            PIXELS=run,
            PIECE=piece,
            CHANNELS=channels,
            ACC=TYPES[acc],
        )
    return y.finished(), gates


def skaf_gate_bwd(
    dy: Tensor,
    m: Tensor,
    weight: Tensor,
    g: Tensor,
    local: Tensor,
    gates: Tensor,
    need_m: bool,
    need_weight: bool,
    need_branches: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """dm, dweight, dbias, dg, dlocal; what is not needed has no elements."""
    need_maps = need_m or need_weight
    (n, c, h, w), acc = g.shape, accumulator(g)
    piece, channels = piece_of(g)
    dz = torch.empty((n, 2, h, w) if need_maps else (0,), dtype=acc, device=g.device)
    branches = [Result(g), Result(g)] if need_branches else []
    dg, dlocal = (r.pixels for r in branches) if branches else (g, local)  # not written where they are not needed
    dm = m.new_empty(m.shape if need_m else (0,))
    dweight = torch.empty_like(weight) if need_weight else weight.new_empty((0,))
    dbias = weight.new_empty((2 if need_weight else 0,))
    with on_device_of(g):
        if need_branches or need_maps:
            _branches[(cdiv(n * h * w, piece),)](
                channels_last(dy.to(g.dtype)),
                channels_last(g),
                channels_last(local),
                gates.contiguous(),
                dg,
                dlocal,
                dz,
                n * h * w,
                h,
                w,
                C=c,
                NEED_BRANCHES=need_branches,
                NEED_MAPS=need_maps,
                PIECE=piece,
                CHANNELS=channels,
                ACC=TYPES[acc],
                num_warps=8,
            )
        if need_m:
            _of_maps(dz, weight, dm)
        if need_weight:
            _of_weight(dz, m.contiguous(), dweight, dbias)
    if branches:
        return dm, dweight, dbias, branches[0].finished(), branches[1].finished()
    return dm, dweight, dbias, g.new_empty((0,)), g.new_empty((0,))


def _of_maps(dz: Tensor, weight: Tensor, dm: Tensor) -> None:
    n, _, h, w = dz.shape
    pixels = n * h * w
    run = 512 if pixels >= 512 * 512 else 128
    transposed[(cdiv(pixels, run),)](
        dz, weight, dm, pixels, h, w, K=weight.shape[-1], STRIDES=weight.stride(), PIXELS=run, ACC=TYPES[dz.dtype]
    )


def _of_weight(dz: Tensor, m: Tensor, dweight: Tensor, dbias: Tensor) -> None:
    n, _, h, w = dz.shape
    pixels, kernel = n * h * w, dweight.shape[-1]
    taps = min(64, next_power_of_2(kernel * kernel))
    step = 2048 // taps
    steps = cdiv(pixels, step * PROGRAMS)
    programs = cdiv(pixels, step * steps)
    count = 4 * kernel * kernel
    partial = dz.new_empty((programs, count + 2))
    acc = TYPES[dz.dtype]
    weight_sums[(programs, cdiv(kernel * kernel, taps))](
        dz, m, partial, pixels, steps, h, w, K=kernel, STEP=step, TAPS=taps, ACC=acc, num_warps=8
    )
    columns = 16
    add_sums[(cdiv(count + 2, columns),)](
        partial, dweight, dbias, programs, K=kernel, STRIDES=dweight.stride(), ROWS=64, COLUMNS=columns, ACC=acc
    )
