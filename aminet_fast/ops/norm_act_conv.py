"""Batch normalisation as an affine map, LeakyReLU, padding and a 3x3 convolution: the layer of FRM (Eq. 11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.frm import norm_act_conv_ref
from . import backends
from ._arguments import arguments, image, parameter
from ._devices import triton_problem
from ._library import (
    DTYPES,
    Needs,
    autocasts,
    cuda_kernels,
    describe,
    differentiable,
    empty_as,
    laid_out,
    library,
    plainly,
    triton_kernels,
)
from .extension import load

library.define(
    "norm_act_conv_fwd(Tensor x, Tensor scale, Tensor shift, Tensor weight, float slope, int stride, bool reflect,"
    ' bool upsample, bool moments, Tensor? packed=None, str backend="auto") -> (Tensor y, Tensor mean, Tensor var)'
)
# Gradients that are not needed come back with no elements.
library.define(
    "norm_act_conv_bwd(Tensor dy, Tensor? dmean, Tensor? dvar, Tensor x, Tensor scale, Tensor shift, Tensor weight,"
    " Tensor y, Tensor mean, float slope, int stride, bool reflect, bool upsample, bool need_input, bool need_weight,"
    ' Tensor? packed=None, str backend="auto") -> (Tensor dx, Tensor dscale, Tensor dshift, Tensor dweight)'
)
# One for each weight, without elements where none is of use.
library.define(
    "norm_act_conv_prepack(Tensor[] weights, int[] strides, int[] upsamples, ScalarType dtype, bool backward)"
    " -> Tensor[]"
)
backends.register("norm_act_conv", "cpu", "cpu", lambda: load("_C")[1])


def _given(*arguments: Any) -> tuple[Tensor, Tensor, int, bool]:
    """x, the weight, stride and upsample, of the forward's arguments or the backward's."""
    first, options = (3, 9) if isinstance(arguments[4], Tensor) else (0, 4)  # places of x and of slope
    return arguments[first], arguments[first + 3], arguments[options + 1], arguments[options + 3]


def _out(size: int, stride: int, upsample: bool) -> int:
    """Rows of y for so many of x, or columns."""
    return (size * (2 if upsample else 1) - 1) // stride + 1


def _about(*arguments: Any) -> tuple[Tensor, int]:
    x, *_ = _given(*arguments)
    return x, x.shape[1]


def _refuses(*arguments: Any) -> str:
    """Why csrc/cuda/norm_act_conv.cu does not take these."""
    x, weight, stride, upsample = _given(*arguments)
    (n, c, h, w), k = x.shape, weight.shape[0]
    if c % 8 or k % 8:
        return f"it is for multiples of 8 inputs and outputs, not for {c} and {k}"
    if c * k >= 2**23:
        return f"it is for fewer than 2**23 inputs times outputs, not for {c} and {k}"
    if min(h, w) < 2:
        return "maps of one row or one column"
    if upsample and stride == 2:
        return "a stride of 2 with upsample"
    if not n:
        return "there are no images"
    if max(c * h * w, k * _out(h, stride, upsample) * _out(w, stride, upsample)) >= 2**31:
        return "an image has 2**31 elements or more"
    return ""


cuda_kernels("norm_act_conv", about=_about, refuses=_refuses, tf32=("fwd", "bwd"))
triton_kernels("norm_act_conv", ("fwd", "bwd", "prepack"))

_take = arguments(
    "norm_act_conv",
    image("x"),
    parameter("scale", "[C]"),
    parameter("shift", "[C]"),
    parameter("weight", "[K, C, 3, 3]"),
)
PADDINGS = ("zeros", "reflect")


def norm_act_conv(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    slope: float = 0.2,
    stride: int = 1,
    padding: str = "zeros",
    upsample: bool = False,
    moments: bool = True,
    backend: str | None = None,
    packed: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """y = conv3x3(pad(leaky_relu(x * scale + shift, slope))), and the mean and variance of y's channels.

    Batch normalisation is such a scale and shift (`batch_norm_affine`). The padded activation is not kept for backward
    but made again. With `upsample` the map is doubled by nearest neighbours before it is padded; it is never written
    either. float32 and float64 of stride 1 need fewer products than the convolution has, as in Winograd's F(2x2, 3x3):
    an infinity becomes NaN in its whole tile. On CUDA devices backend="cuda" asks for the compiled kernels, in forward
    and backward. They take multiples of eight inputs and outputs and maps of at least 2x2, and no stride with
    `upsample`; Triton's serve everything else, and one line in the log says so. Products of float32 are exact on CUDA
    devices unless torch.backends.cuda.matmul.allow_tf32 or its successor allows TF32.

    Args:
        x: [N, C, H, W] of float32, float64, bfloat16 or float16, in any layout; channels_last is the fastest.
        scale, shift: [C], of x's dtype or float32.
        weight: [K, C, 3, 3], of x's dtype or float32.
        slope: of LeakyReLU; 1 for no activation.
        stride: 1 or 2.
        padding: one pixel of "zeros" or "reflect"; an axis of one pixel reflects to itself.
        upsample: nearest x2 before the padding.
        moments: also return the mean and the variance; without them both are None.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".
        packed: `norm_act_conv_prepack`'s of this very weight, stride and upsample, to save its time; the result is the
            same. It is not used where it is of no use, as beside x of another dtype.

    Returns:
        y [N, K, H', W'], channels_last, of x's dtype, under autocast of autocast's as the convolution is; H' is
        ceil(H / stride), of 2 H with upsample. mean and biased variance [K] over N, H' and W', float32 (float64 for
        float64) whatever the dtype.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    x, scale, shift, weight = _take(x, scale, shift, weight)
    if stride not in (1, 2):
        raise ValueError(f"norm_act_conv: stride must be 1 or 2, got {stride!r}")
    if padding not in PADDINGS:
        raise ValueError(f"norm_act_conv: padding must be one of {', '.join(PADDINGS)}, got {padding!r}")
    chosen = backends.choose("norm_act_conv", x.device.type, backend, x.dtype)
    if chosen == "reference":
        return _reference(x, scale, shift, weight, slope, stride, padding, upsample, moments)
    _check_packed(packed, weight)
    reflect = padding == "reflect"
    y, mean, var = _call(x, scale, shift, weight, slope, stride, reflect, upsample, moments, packed, chosen)
    return (y, mean, var) if moments else (y, None, None)


def norm_act_conv_prepack(
    weights: Sequence[Tensor],
    strides: Sequence[int],
    upsamples: Sequence[bool],
    dtype: torch.dtype | None = None,
    backward: bool = True,
    backend: str | None = None,
) -> list[Tensor | None]:
    """What `norm_act_conv` makes of weights before it can use them, of several layers at once: on a GPU one launch.

    They are copies: whoever keeps them must make them anew when a weight changes.

    Args:
        weights: [K, C, 3, 3] each, of any dtype of the operator, on one device.
        strides, upsamples: `norm_act_conv`'s options of that name, one for each weight.
        dtype: of the data that is to be convolved; None: as each weight is.
        backward: also what the gradient of x takes.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        For each weight a tensor [1-d], or None where the operator would not use it. On CUDA devices with Triton it is
        of `dtype`, as large as the weight or 16 / 9 of it, once for each direction; with `upsample` and backward it has
        the weight once more. On the CPU it serves the forward in float32 and float64, of the weight's own dtype, up to
        16 / 9 as large and filled up to 16 outputs.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
    """
    if not isinstance(weights, list | tuple) or not all(isinstance(w, Tensor) and w.dim() == 4 for w in weights):
        raise TypeError(f"norm_act_conv: weights must be a list of tensors [K, C, 3, 3], got {describe(weights)}")
    if not weights or not len(weights) == len(strides) == len(upsamples):
        counts = f"{len(weights)} weights, {len(strides)} strides and {len(upsamples)} upsamples"
        raise ValueError(f"norm_act_conv: one stride and one upsample for each weight, at least one, got {counts}")
    first = weights[0]
    dtype = first.dtype if dtype is None else dtype
    chosen = backends.choose("norm_act_conv", first.device.type, backend, dtype)
    if chosen == "reference" or dtype not in DTYPES or not _packs_on(first.device.type):
        return [None] * len(weights)
    flags = [int(upsample) for upsample in upsamples]
    with torch.no_grad():
        found = torch.ops.aminet_fast.norm_act_conv_prepack(list(weights), list(strides), flags, dtype, backward)
    return [packed if packed.numel() else None for packed in found]


@torch.compiler.assume_constant_result
def _packs_on(device: str) -> bool:
    """Whether norm_act_conv_prepack, which on CUDA devices is Triton's alone, can serve tensors there."""
    return device != "cuda" or not triton_problem()


def packed_taps(stride: int, upsample: bool, backward: bool) -> int:
    """Matrices of C times K that a weight is packed into on a GPU; kernels/norm_act_conv_plan.py has their order.

    As many for the gradient of x as for the forward. With upsample nine more follow, the plain weights: the compiled
    kernels take that gradient by another way, a convolution of stride 2 over sums of 2x2 of y's gradient.
    """
    taps = 9 if not upsample else 16 if stride == 1 else 4
    return taps * (2 if backward else 1) + (9 if backward and upsample and stride == 1 else 0)


def _check_packed(packed: Tensor | None, weight: Tensor) -> None:
    if packed is None:
        return
    if not isinstance(packed, Tensor) or packed.dim() != 1:
        raise TypeError(f"norm_act_conv: packed must be a 1-d tensor or None, got {describe(packed)}")
    if packed.device != weight.device:
        there = f"packed is on {packed.device} and weight on {weight.device}"
        raise ValueError(f"norm_act_conv: {there}; move them to one device")


def _reference(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    slope: float,
    stride: int,
    padding: str,
    upsample: bool,
    moments: bool,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The reference, kept to this operator's promises on dtype and layout."""
    dtype = x.dtype
    with plainly(x):
        parameters = (scale.to(dtype), shift.to(dtype), weight.to(dtype))
        y = norm_act_conv_ref(x, *parameters, slope, stride, padding, upsample)[0]
        y = laid_out(y, torch.channels_last)
        if not moments:
            return y, None, None
        var, mean = torch.var_mean(y.to(torch.promote_types(dtype, torch.float32)), (0, 2, 3), correction=0)
    return y, mean, var


@torch.library.register_fake("aminet_fast::norm_act_conv_fwd", lib=library)
def _forward_fake(
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
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(x.device == scale.device and x.device == weight.device)
    n, c, h, w = x.shape
    torch._check(weight.shape[1] == c and scale.shape[0] == c and shift.shape[0] == c)
    k = weight.shape[0]
    y = x.new_empty((n, _out(h, stride, upsample), _out(w, stride, upsample), k)).permute(0, 3, 1, 2)
    dtype, kept = torch.promote_types(x.dtype, torch.float32), k if moments else 0
    return y, x.new_empty(kept, dtype=dtype), x.new_empty(kept, dtype=dtype)


@torch.library.register_fake("aminet_fast::norm_act_conv_bwd", lib=library)
def _backward_fake(
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
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch._check(dy.shape[0] == x.shape[0] and dy.shape[1] == weight.shape[0])
    dweight = empty_as(weight) if need_weight else weight.new_empty(0)
    if not need_input:
        return x.new_empty(0), scale.new_empty(0), shift.new_empty(0), dweight
    return empty_as(x), scale.new_empty(scale.shape), shift.new_empty(shift.shape), dweight


@torch.library.register_fake("aminet_fast::norm_act_conv_prepack", lib=library)
def _prepack_fake(
    weights: list[Tensor], strides: list[int], upsamples: list[int], dtype: torch.dtype, backward: bool
) -> list[Tensor]:
    return [
        w.new_empty(_packed_size(w, stride, bool(upsample), dtype, backward), dtype=dtype)
        for w, stride, upsample in zip(weights, strides, upsamples, strict=True)
    ]


def _packed_size(weight: Tensor, stride: int, upsample: bool, dtype: torch.dtype, backward: bool) -> int:
    """The kernels' rules too: csrc/cpu/norm_act_conv.cpp, kernels/norm_act_conv_tiles.py."""
    outputs, inputs = weight.shape[:2]
    if weight.device.type != "cpu":
        return packed_taps(stride, upsample, backward) * outputs * inputs
    if dtype != weight.dtype or dtype.itemsize < 4 or (upsample and stride == 2):
        return 0
    parts = 16 if stride == 1 and not upsample else 9
    return parts * inputs * ((outputs + 15) // 16 * 16)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, scale, shift, weight, *ctx.options, ctx.moments, packed, ctx.backend = inputs
    y, mean, var = output
    # Without moments y is not read again, and need not be kept.
    ctx.save_for_backward(x, scale, shift, weight, y if ctx.moments else mean, mean, packed)
    if not ctx.moments:
        ctx.mark_non_differentiable(mean, var)


def _backward(ctx: Any, needs: Needs, dy: Tensor, dmean: Tensor, dvar: Tensor) -> tuple[Tensor | None, ...]:
    x, scale, shift, weight = needs[:4]
    through = (dmean, dvar) if ctx.moments else (None, None)
    *tensors, packed = ctx.saved_tensors
    dx, dscale, dshift, dweight = torch.ops.aminet_fast.norm_act_conv_bwd(
        dy, *through, *tensors, *ctx.options, x or scale or shift, weight, packed, ctx.backend
    )
    gradients = zip((dx, dscale, dshift, dweight), (x, scale, shift, weight), strict=True)
    of_tensors = [gradient if needed else None for gradient, needed in gradients]
    return *of_tensors, *[None] * 7  # slope, stride, reflect, upsample, moments, packed, backend


autocasts("norm_act_conv", "x")
_call = differentiable("norm_act_conv", _setup_context, _backward)
