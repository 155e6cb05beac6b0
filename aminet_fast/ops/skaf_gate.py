"""The gated sum that ends LGFI and EDFF (Section III-B3, Eq. 14-15; Section III-C, Eq. 17)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.skaf import skaf_gate_ref
from . import backends
from ._arguments import arguments, image, parameter
from ._library import (
    Needs,
    autocasts,
    differentiable,
    empty_as,
    empty_weight,
    laid_out,
    library,
    memory_format,
    plainly,
    triton_kernels,
)
from .extension import load

# l: the local branch; exported programs look arguments up by their names here.
library.define(
    "skaf_gate_fwd(Tensor m, Tensor weight, Tensor bias, Tensor g, Tensor l, Tensor? residual)"
    " -> (Tensor y, Tensor gates)"
)
# Gradients that are not needed come back with no elements.
library.define(
    "skaf_gate_bwd(Tensor dy, Tensor m, Tensor weight, Tensor g, Tensor l, Tensor gates,"
    " bool need_m, bool need_weight, bool need_branches)"
    " -> (Tensor dm, Tensor dweight, Tensor dbias, Tensor dg, Tensor dl)"
)
backends.register("skaf_gate", "cpu", "cpu", lambda: load("_C")[1])
triton_kernels("skaf_gate", float64=True)
_take = arguments(
    "skaf_gate",
    image("g"),
    image("m", "[N, 2, H, W]", or_float32=True),
    parameter("weight", "[2, 2, K, K] of odd K"),
    parameter("bias", "[2]"),
    image("local"),
    image("residual", optional=True),
)


def skaf_gate(
    m: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor,
    local: Tensor,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """residual + g * w1 + local * w2 with w1, w2 = split(sigmoid(conv(m))); without residual g * w1 + local * w2.

    Args:
        m: [N, 2, H, W], SKAF's descriptor: mean and maximum over the channels.
        weight, bias: [2, 2, K, K] of odd K (7 in the network) and [2]; the convolution pads by K // 2 zeros.
        g, local, residual: [N, C, H, W] of one dtype out of float32, float64, bfloat16 and float16, in any layout;
            channels_last for all of them is the fastest. m, weight and bias are of that dtype or float32.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        [N, C, H, W] of g's dtype, under autocast of autocast's; gates and sums are float32 (float64 for float64)
        whatever the dtype. channels_last if g's channels are neighbours in memory, contiguous otherwise.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    g, m, weight, bias, local, residual = _take(g, m, weight, bias, local, residual)
    if backends.choose("skaf_gate", g.device.type, backend, g.dtype) == "reference":
        return _reference(m, weight, bias, g, local, residual)
    return _call(m, weight, bias, g, local, residual)[0]


def _reference(
    m: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor,
    local: Tensor,
    residual: Tensor | None,
) -> Tensor:
    """The reference, kept to this operator's promises on dtype and layout."""
    with plainly(g):
        y = skaf_gate_ref(m.to(g.dtype), weight.to(g.dtype), bias.to(g.dtype), g, local, residual)
    return laid_out(y, memory_format(g))


@torch.library.register_fake("aminet_fast::skaf_gate_fwd", lib=library)
def _forward_fake(
    m: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor,
    local: Tensor,
    residual: Tensor | None,
) -> tuple[Tensor, Tensor]:
    torch._check(g.shape == local.shape and (residual is None or g.shape == residual.shape))
    torch._check(m.device == g.device and weight.device == g.device)
    n, _, h, w = g.shape
    accumulated = torch.float64 if g.dtype == torch.float64 else torch.float32
    return empty_as(g), g.new_empty((n, 2, h, w), dtype=accumulated)


@torch.library.register_fake("aminet_fast::skaf_gate_bwd", lib=library)
def _backward_fake(
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
    torch._check(dy.shape == g.shape)
    dm = m.new_empty(m.shape if need_m else (0,))
    dweight = empty_weight(weight) if need_weight else weight.new_empty((0,))
    dbias = weight.new_empty((2 if need_weight else 0,))
    if need_branches:
        return dm, dweight, dbias, empty_as(g), empty_as(g)
    return dm, dweight, dbias, g.new_empty((0,)), g.new_empty((0,))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    m, weight, bias, g, local, _ = inputs
    _, gates = output
    ctx.mark_non_differentiable(gates)
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(m, weight, g, local, gates)


def _backward(ctx: Any, needs: Needs, dy: Tensor, _gates: Tensor) -> tuple[Tensor | None, ...]:
    m, weight, bias, g, local, residual = needs
    if not (m or weight or bias or g or local):
        return None, None, None, None, None, dy if residual else None
    wanted = m, weight or bias, g or local
    dm, dweight, dbias, dg, dlocal = torch.ops.aminet_fast.skaf_gate_bwd(dy, *ctx.saved_tensors, *wanted)
    return (
        dm if m else None,
        dweight if weight else None,
        dbias.to(ctx.bias_dtype) if bias else None,
        dg if g else None,
        dlocal if local else None,
        dy if residual else None,
    )


autocasts("skaf_gate", "m", "g", "l", "residual")
_call = differentiable("skaf_gate", _setup_context, _backward)
