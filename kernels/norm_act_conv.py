"""y = conv3x3(pad(leaky_relu(x * scale + shift))) and the moments of its channels, forward and backward.

Forward reads x and writes y: an implicit GEMM [pixels, taps * C] x [taps * C, K] that activates x while it gathers it
(norm_act_conv_forward.py), in tiles of 64 or 128 pixels, counted through all images so that small maps fill them too,
and up to 64 or 128 outputs, so that most convolutions gather x once. Each tile leaves the mean of its y and the squares
about it; a second kernel combines them by Chan's formula, all in an order that the shapes give. After nearest x2 it is
four convolutions of 2x2 taps on the small map, whose replicate padding is the large one's reflection.

Backward:
- dy' = dy + dmean / n + 2 (y - mean) dvar / n is written once, read twice. Adding it up while the GEMMs gather would
  spare one map, but every value would be made from two loads and some eight instructions for each of nine taps: on an
  H100 that is about three times what the tensor cores need for FRM's 24 to 64 channels, where the map costs a sixth.
- dx is an implicit GEMM over dy' with plain loads (norm_act_conv_input.py); of a strided convolution each parity of
  pixels has its own 1, 2, 2 or 4 taps, and after nearest x2 there are 4x4 taps of stride 2. What reflection read twice
  is gathered too: dy' has one more row and column on each side, which hold the sums that border pixels take instead of
  one of their taps. Its epilogue makes LeakyReLU's derivative again and the sums for scale and shift.
- dweight is a GEMM over pixels in fixed splits (norm_act_conv_weight.py). x is activated while it is gathered here as
  well: cuDNN would need the padded activation in memory, two more passes over it.
- One launch adds up all that was left in parts, for scale, shift and the weight (norm_act_conv_sums.py).
Weights are laid out for both directions at once, of as many layers as their caller knows of (norm_act_conv_prepack).
All sums are float32, and nothing is added in an order that varies.

One call at batch 32 in bfloat16: bytes moved (backward: 5 y + 3 x), and floors on an H100 (3.0 TB/s, 800 TFLOP/s):

    layer (FRM at c@side)        24@128              48@64               96@32              192@16
    c->c, zeros           fwd    50 MB  5.4 GF 17us  25 MB  5.4 GF  8us  13 MB 5.4 GF  7us   6 MB 5.4 GF  7us
                          bwd   201 MB 10.9 GF 67us 101 MB 10.9 GF 34us  50 MB 10.9 GF 17us 25 MB 10.9 GF 14us
    c->64                 fwd    92 MB 14.5 GF 31us  29 MB  7.2 GF 10us  10 MB 3.6 GF  5us   4 MB 1.8 GF  2us
                          bwd   411 MB 29.0 GF 137us 122 MB 14.5 GF 41us 40 MB 7.2 GF 13us  15 MB 3.6 GF  5us
    c->64, stride 2       fwd    42 MB  3.6 GF 14us  17 MB  1.8 GF  6us   7 MB 0.9 GF  2us   3 MB 0.5 GF  1us
                          bwd   159 MB  7.2 GF 53us  59 MB  3.6 GF 20us  24 MB 1.8 GF  8us  11 MB 0.9 GF  4us
    64->64 at side / 2    fwd    34 MB  9.7 GF 12us   8 MB  2.4 GF  3us   2 MB 0.6 GF  1us   1 MB 0.2 GF  0us
                          bwd   134 MB 19.3 GF 45us  34 MB  4.8 GF 11us   8 MB 1.2 GF  3us   2 MB 0.3 GF  1us
    64->64, nearest x2    fwd    84 MB 17.2 GF 28us  21 MB  4.3 GF  7us   5 MB 1.1 GF  2us   1 MB 0.3 GF  0us
                          bwd   386 MB 34.4 GF 129us 96 MB  8.6 GF 32us  24 MB 2.1 GF  8us   6 MB 0.5 GF  2us

A pixel's value is activated once for each tap: about seven instructions against 2 * K flops, which bounds the forward
of 24 channels at about 26 us, above its floor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._common import channels_last, empty_as, on_device_of, refuse_float64
from .norm_act_conv_forward import forward
from .norm_act_conv_input import input_gradient, output_gradient
from .norm_act_conv_plan import plan_of
from .norm_act_conv_sums import add_up
from .norm_act_conv_tiles import pack, packed_for
from .norm_act_conv_weight import weight_gradient


def norm_act_conv_fwd(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    slope: float,
    stride: int,
    reflect: bool,
    upsample: bool,
    moments: bool,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, mean and var, the last two without elements unless they are wanted."""
    refuse_float64("norm_act_conv", x)
    plan = plan_of(x.shape[2], x.shape[3], stride, reflect, upsample)
    with on_device_of(x):
        laid_out = packed_for(weight, packed, x, stride, plan, backward=False)
        return forward(channels_last(x), scale.contiguous(), shift.contiguous(), laid_out, slope, plan, moments)


def norm_act_conv_prepack(
    weights: list[Tensor], strides: list[int], upsamples: list[int], dtype: torch.dtype, backward: bool
) -> list[Tensor]:
    """What both directions, or the forward alone, take of each weight, for maps of more than one row and column."""
    refuse_float64("norm_act_conv", weights[0].new_empty(0, dtype=dtype))
    plans = [plan_of(2, 2, stride, False, bool(up)) for stride, up in zip(strides, upsamples, strict=True)]
    with on_device_of(weights[0]):
        return pack(weights, plans, dtype, backward=backward)


def norm_act_conv_bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    y: Tensor,
    mean: Tensor,
    slope: float,
    stride: int,
    reflect: bool,
    upsample: bool,
    need_input: bool,
    need_weight: bool,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, scale, shift and weight; without elements where they are not needed."""
    refuse_float64("norm_act_conv", x)
    plan = plan_of(x.shape[2], x.shape[3], stride, reflect, upsample)
    dx, dscale, dshift = x.new_empty(0), scale.new_empty(0), shift.new_empty(0)
    dweight = empty_as(weight) if need_weight else weight.new_empty(0)
    with on_device_of(x):
        native = channels_last(x)
        scale, shift = scale.contiguous(), shift.contiguous()
        dy = channels_last(dy.to(x.dtype))
        through = None
        if dmean is not None and dvar is not None:
            through = channels_last(y), mean.contiguous(), dmean.float().contiguous(), dvar.float().contiguous()
        g, of_channels, of_weights = output_gradient(dy, through, plan), None, None
        if need_input:
            made = torch.empty_like(native)
            laid_out = packed_for(weight, packed, x, stride, plan, backward=True)
            of_channels = input_gradient(g, native, scale, shift, laid_out, slope, plan, made)
            dscale, dshift = of_channels.dscale, of_channels.dshift
            dx = made if x.stride(1) == 1 else made.contiguous()
        if need_weight:
            of_weights = weight_gradient(g, native, scale, shift, dweight, slope, plan)
        add_up(of_channels, of_weights, x.shape[1], weight.shape[0], plan)
    return dx, dscale, dshift, dweight
