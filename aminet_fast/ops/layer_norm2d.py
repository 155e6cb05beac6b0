"""Layer normalisation over the channels of each pixel (LN of LGFI, Section III-B, Fig. 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.norm import layer_norm2d_ref
from . import backends
from ._arguments import arguments, image, parameter
from ._library import (
    Needs,
    autocasts,
    differentiable,
    empty_as,
    laid_out,
    library,
    memory_format,
    triton_kernels,
)
from .extension import load

library.define(
    "layer_norm2d_fwd(Tensor x, Tensor weight, Tensor bias, float eps) -> (Tensor y, Tensor mean, Tensor rstd)"
)
library.define(
    "layer_norm2d_bwd(Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor rstd)"
    " -> (Tensor dx, Tensor dweight, Tensor dbias)"
)
backends.register("layer_norm2d", "cpu", "cpu", lambda: load("_C")[1])
triton_kernels("layer_norm2d", float64=True)
_take = arguments("layer_norm2d", image("x"), parameter("weight", "[C]"), parameter("bias", "[C]"))


def layer_norm2d(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, backend: str | None = None) -> Tensor:
    """y[n, :, h, w] = (x - mean) / sqrt(var + eps) * weight + bias, over the channels of each pixel.

    Args:
        x: [N, C, H, W] of float32, float64, bfloat16 or float16, in any layout; channels_last is the fastest.
        weight, bias: [C], of x's dtype or float32.
        eps: added to the (biased) variance; not negative.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        [N, C, H, W] of x's dtype, under autocast of autocast's, on CUDA devices too (where torch's layer norm returns
        float32); statistics and sums are float32 (float64 for float64) whatever the dtype.
        channels_last if x's channels are neighbours in memory, contiguous otherwise.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    x, weight, bias = _take(x, weight, bias)
    if not eps >= 0:
        raise ValueError(f"layer_norm2d: eps must not be negative, got {eps}")
    if backends.choose("layer_norm2d", x.device.type, backend, x.dtype) == "reference":
        return _reference(x, weight, bias, eps)
    return _call(x, weight, bias, eps)[0]


def _reference(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The reference, kept to this operator's promises on dtype and layout."""
    dtype = torch.promote_types(torch.promote_types(x.dtype, weight.dtype), bias.dtype)
    y = layer_norm2d_ref(x.to(dtype), weight.to(dtype), bias.to(dtype), eps).to(x.dtype)
    return laid_out(y, memory_format(x))


@torch.library.register_fake("aminet_fast::layer_norm2d_fwd", lib=library)
def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(x.device == weight.device and x.device == bias.device)
    n, c, h, w = x.shape
    torch._check(weight.shape[0] == c and bias.shape[0] == c)
    accumulated = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = empty_as(x)
    return y, x.new_empty((n, h, w), dtype=accumulated), x.new_empty((n, h, w), dtype=accumulated)


@torch.library.register_fake("aminet_fast::layer_norm2d_bwd", lib=library)
def _backward_fake(dy: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    torch._check(x.device == dy.device and x.device == weight.device)
    torch._check(dy.shape == x.shape)
    dx = empty_as(x)
    return dx, weight.new_empty(weight.shape), weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, bias, _ = inputs
    _, mean, rstd = output
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(x, weight, mean, rstd)


def _backward(ctx: Any, needs: Needs, dy: Tensor, _mean: Tensor, _rstd: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    dx, dweight, dbias = torch.ops.aminet_fast.layer_norm2d_bwd(dy, *ctx.saved_tensors)
    return dx, dweight, dbias.to(ctx.bias_dtype), None


autocasts("layer_norm2d", "x")
_call = differentiable("layer_norm2d", _setup_context, _backward)
