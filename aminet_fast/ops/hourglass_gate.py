"""The end of FRM (Eq. 11): the hourglass's one-channel gate, its product with FRM's features, and the residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.frm import hourglass_gate_ref
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
    plainly,
    triton_kernels,
)
from .extension import load

_INPUTS = (
    "Tensor x, Tensor x_scale, Tensor x_shift, Tensor a, Tensor a_scale, Tensor a_shift,"
    " Tensor b, Tensor b_scale, Tensor b_shift, Tensor weight"
)
library.define(f"hourglass_gate_fwd(Tensor z, {_INPUTS}, Tensor bias, float slope) -> (Tensor y, Tensor gate)")
# The gradients of x ... weight, in this order, and of bias; that of z is dy.
library.define(f"hourglass_gate_bwd(Tensor dy, {_INPUTS}, Tensor gate, float slope) -> Tensor[]")
backends.register("hourglass_gate", "cpu", "cpu", lambda: load("_C")[1])
triton_kernels("hourglass_gate")
_take = arguments(
    "hourglass_gate",
    image("x"),
    image("z"),
    parameter("x_scale", "[C]"),
    parameter("x_shift", "[C]"),
    image("a", "[N, M, H, W]"),
    parameter("a_scale", "[M]"),
    parameter("a_shift", "[M]"),
    image("b", "[N, M, H, W]"),
    parameter("b_scale", "[M]"),
    parameter("b_shift", "[M]"),
    parameter("weight", "[1, M, 3, 3]"),
    parameter("bias", "[1]"),
)


def hourglass_gate(
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
    slope: float = 0.2,
    backend: str | None = None,
) -> Tensor:
    """y = z + norm(x) * sigmoid(conv3x3(reflect(act(norm(a)) + act(norm(b)))) + bias), norm(v) = v * scale + shift.

    The sum that the convolution sees is never written, in backward neither; only the gate is kept.

    Args:
        z, x: [N, C, H, W] of one dtype out of float32, float64, bfloat16 and float16, in any layout; channels_last is
            the fastest, here and below.
        a, b: [N, M, H, W] of that dtype.
        x_scale, x_shift: [C]; a_scale, a_shift, b_scale, b_shift: [M]; of that dtype or float32.
        weight, bias: [1, M, 3, 3] and [1], of that dtype or float32; an axis of one pixel reflects to itself.
        slope: of LeakyReLU, for a and b.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        [N, C, H, W], channels_last, of x's dtype, under autocast of autocast's; the gate and all sums are float32
        (float64 for float64) whatever the dtype.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    x, z, *others = _take(x, z, x_scale, x_shift, a, a_scale, a_shift, b, b_scale, b_shift, weight, bias)
    if backends.choose("hourglass_gate", x.device.type, backend, x.dtype) == "reference":
        given = [z, x, *(t.to(x.dtype) for t in others), slope]
        with plainly(x):
            return laid_out(hourglass_gate_ref(*given), torch.channels_last)
    return _call(z, x, *others, slope)[0]


@torch.library.register_fake("aminet_fast::hourglass_gate_fwd", lib=library)
def _forward_fake(z: Tensor, x: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    torch._check(z.shape == x.shape and z.device == x.device)
    n, _, h, w = x.shape
    y = torch.empty_like(x.contiguous(memory_format=torch.channels_last))
    return y, x.new_empty((n, 1, h, w), dtype=torch.promote_types(x.dtype, torch.float32))


@torch.library.register_fake("aminet_fast::hourglass_gate_bwd", lib=library)
def _backward_fake(dy: Tensor, *inputs: Any) -> list[Tensor]:
    torch._check(dy.shape == inputs[0].shape)
    weight = inputs[9]
    gradients = [empty_as(t) if t.dim() == 4 else t.new_empty(t.shape) for t in inputs[:9]]
    return [*gradients, empty_weight(weight), weight.new_empty(1)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, *tensors, bias, ctx.slope = inputs
    gate = output[1]
    ctx.mark_non_differentiable(gate)
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.bias_dtype = bias.dtype
    ctx.save_for_backward(*tensors, gate)


def _backward(ctx: Any, needs: Needs, dy: Tensor, _gate: Tensor) -> tuple[Tensor | None, ...]:
    z, *others, bias, _ = needs
    dz = dy if z else None
    if not any(others) and not bias:
        return (dz, *[None] * 12)
    *gradients, dbias = torch.ops.aminet_fast.hourglass_gate_bwd(dy, *ctx.saved_tensors, ctx.slope)
    wanted = (gradient if needed else None for gradient, needed in zip(gradients, others, strict=True))
    return dz, *wanted, dbias.to(ctx.bias_dtype) if bias else None, None


autocasts("hourglass_gate", "z", "x", "a", "b")
_call = differentiable("hourglass_gate", _setup_context, _backward)
