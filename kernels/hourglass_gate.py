"""y = z + norm(x) * gate, gate = sigmoid(conv3x3(reflect(act(norm(a)) + act(norm(b)))) + bias), and its gradients.

Data is [pixel][channel]. The convolution has one output, so forward multiplies each pixel with all nine taps at once (a
product of matrices, [pixels, M] x [M, 9]), which reads a and b once and needs no halo of them; nine numbers a pixel go
through memory, mostly the second-level cache, to a launch that adds nine neighbours, makes the gate and y.
Backward is one pass over dy and x (dx and the gradient before the sigmoid, dlogit) and one over a and b, which makes
their sum again: what reaches a pixel through the nine taps, times the taps, is ds, and times the sum is the weight's
gradient. Sums over pixels stay in registers through a fixed run of pixels, and a last launch adds the runs in a fixed
order. For 16-bit data forward's product is of TF32, which rounds bfloat16's sums eight times finer than bfloat16 would
and has float32's range, and is added in float32; backward's are float32's multiply-adds.

Floors in bf16 at batch 32 and M = 64 (one MB = 1e6 bytes, 3.0 TB/s). Forward reads z, x, a, b and writes y, the gate
and, and reads again, the products; backward reads dy, x, gate, dlogit, a, b and writes dx, dlogit, da, db. At 24@128
forward's product is 1.1 GFLOP as 16 columns, 1 us at the tensor cores' 800 TFLOP/s; backward's are 1.2 GFLOP, 20 us at
float32's 60.

    size      forward MB    floor us    backward MB    floor us
    24@128         249.6        83.2          350.2       116.7
    48@64           81.3        27.1          106.4        35.5
    96@32           29.8         9.9           36.0        12.0
    192@16          12.2         4.1           13.7         4.6
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import cdiv, channels_last, dot_precision, next_power_of_2, on_device_of, refuse_float64
from ._gates import PROGRAMS, Result, piece_of
from .hourglass_gate_images import add_sums, gated, x_backward
from .hourglass_gate_maps import maps_backward, tap_products


def hourglass_gate_fwd(
    z: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_shift: Tensor,
    a: Tensor,
    a_scale: Tensor,
    a_shift: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: float,
) -> tuple[Tensor, Tensor]:
    """y, channels_last, and the gate [N, 1, H, W]."""
    refuse_float64("hourglass_gate", x)
    n, c, h, w = x.shape
    pixels, of_x = n * h * w, channels_last(x)
    y = torch.empty_like(of_x)
    gate = torch.empty((n, 1, h, w), dtype=torch.float32, device=x.device)
    # float32 beside 16-bit images: nine of them rounded to bfloat16 put a gate of 24@128 at worst 1.3e-3 to 1.5e-3 off;
    # eager, which rounds their sum, 7.7e-4 to 8.0e-4 (random maps, three seeds, against float64).
    products = torch.empty((9, pixels), dtype=torch.float32, device=x.device)
    run = 128 if a.element_size() == 2 else 64  # of exact float32, more take too many registers
    piece, channels = piece_of(x)
    of_a = (channels_last(a), a_scale.contiguous(), a_shift.contiguous())
    of_b = (channels_last(b), b_scale.contiguous(), b_shift.contiguous())
    with on_device_of(x):
        tap_products[(cdiv(pixels, run),)](
            *of_a,
            *of_b,
            weight,
            products,
            slope,
            pixels,
            M=a.shape[1],
            STRIDES=weight.stride(),
            PIXELS=run,
            MAPS=_maps(a),
            PRECISION=_precision(a),
            num_warps=8,
            num_stages=1,  # more of them would take 170 KB of shared memory
        )
        gated[(cdiv(pixels, piece),)](
            channels_last(z),
            of_x,
            x_scale.contiguous(),
            x_shift.contiguous(),
            products,
            bias,
            y,
            gate,
            pixels,
            h,
            w,
            C=c,
            PIECE=piece,
            CHANNELS=channels,
        )
    return y, gate


def hourglass_gate_bwd(
    dy: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_shift: Tensor,
    a: Tensor,
    a_scale: Tensor,
    a_shift: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_shift: Tensor,
    weight: Tensor,
    gate: Tensor,
    slope: float,
) -> list[Tensor]:
    """The gradients of x ... weight, in this order, and of bias."""
    refuse_float64("hourglass_gate", x)
    (n, c, h, w), m = x.shape, a.shape[1]
    pixels = n * h * w
    dx, da, db = Result(x), Result(a), Result(b)
    vectors = [t.new_empty(t.shape) for t in (x_scale, x_shift, a_scale, a_shift, b_scale, b_shift)]
    dweight, dbias = torch.empty_like(weight), weight.new_empty(1)
    dlogit = torch.empty(pixels, dtype=torch.float32, device=x.device)
    piece, channels = piece_of(x)
    x_steps = cdiv(pixels, piece * PROGRAMS)
    x_programs = cdiv(pixels, piece * x_steps)
    of_x = dlogit.new_empty((x_programs, 2 * c + 1))
    maps, step = _vectors(a)
    map_steps = cdiv(pixels, step * PROGRAMS)
    map_programs = cdiv(pixels, step * map_steps)
    of_maps = dlogit.new_empty((map_programs, 13, m))
    with on_device_of(x):
        x_backward[(x_programs,)](
            channels_last(dy.to(x.dtype)),
            channels_last(x),
            x_scale.contiguous(),
            x_shift.contiguous(),
            gate.contiguous(),
            dx.pixels,
            dlogit,
            of_x,
            pixels,
            x_steps,
            C=c,
            PIECE=piece,
            ROWS=max(1, piece // 4),
            CHANNELS=channels,
        )
        maps_backward[(map_programs, cdiv(m, maps))](
            dlogit,
            channels_last(a),
            a_scale.contiguous(),
            a_shift.contiguous(),
            channels_last(b),
            b_scale.contiguous(),
            b_shift.contiguous(),
            weight,
            da.pixels,
            db.pixels,
            of_maps,
            slope,
            pixels,
            map_steps,
            h,
            w,
            M=m,
            STRIDES=weight.stride(),
            STEP=step,
            MAPS=maps,
            num_warps=4,
        )
        add_sums[(cdiv(max(m, 2 * c + 1), 16), 14)](
            of_x, of_maps, *vectors, dweight, dbias, x_programs, map_programs, C=c, M=m, STRIDES=dweight.stride(),
            ROWS=64, COLUMNS=16,
        )  # fmt: skip
    gradients = [dx.finished(), *vectors[:2], da.finished(), *vectors[2:4], db.finished(), *vectors[4:]]
    return [*gradients, dweight, dbias]


def _maps(a: Tensor) -> int:
    """Of a and b that a program holds at a time; tl.dot wants 16 at least."""
    return min(64, max(16, next_power_of_2(a.shape[1])))


def _vectors(a: Tensor) -> tuple[int, int]:
    """Maps and pixels that 128 threads hold at once: a vector of 16 bytes each, less where pixels are no whole vectors
    and addresses take registers; and one pixel a thread at most.
    """
    m, size = a.shape[1], a.element_size()
    maps, vector = min(64, next_power_of_2(m)), 16 if m * size % 16 == 0 else 4
    return maps, min(128, 128 * vector // (size * maps))


def _precision(a: Tensor) -> str:
    """Of the products: as torch's own for float32, and as fine as float16 for 16-bit data."""
    return dot_precision() if a.dtype == torch.float32 else "tf32"
