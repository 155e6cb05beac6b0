"""The end of FRM (Eq. 11): the hourglass's one-channel gate, its product with FRM's features, and the residual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.frm import hourglass_gate_ref
from . import backends
from ._library import (
    Needs,
    autocasts,
    check_channel_vector,
    check_image,
    describe,
    differentiable,
    empty_as,
    empty_weight,
    entering,
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
    images = {"z": z, "x": x, "a": a, "b": b}
    for name, image in images.items():
        check_image("hourglass_gate", name, image)
    z, x, a, b = entering(z), entering(x), entering(a), entering(b)
    _check_images(z, x, a, b)
    vectors = {"x_scale": (x_scale, x), "x_shift": (x_shift, x), "a_scale": (a_scale, a), "a_shift": (a_shift, a)}
    for name, (vector, image) in {**vectors, "b_scale": (b_scale, b), "b_shift": (b_shift, b)}.items():
        check_channel_vector("hourglass_gate", name, vector, image)
    _check_convolution(weight, bias, a)
    if backends.choose("hourglass_gate", x.device.type, backend, x.dtype) == "reference":
        parameters = (x_scale, x_shift, a_scale, a_shift, b_scale, b_shift, weight, bias)
        xs, xh, as_, ah, bs, bh, w, constant = (t.to(x.dtype) for t in parameters)
        with plainly(x):
            y = hourglass_gate_ref(z, x, xs, xh, a, as_, ah, b, bs, bh, w, constant, slope)
        return y.contiguous(memory_format=torch.channels_last)
    return _call(z, x, x_scale, x_shift, a, a_scale, a_shift, b, b_scale, b_shift, weight, bias, slope)[0]


def _check_images(z: Tensor, x: Tensor, a: Tensor, b: Tensor) -> None:
    """One dtype, device and size, after autocast."""
    n, c, h, w = x.shape
    m = a.shape[1]
    for name, image, channels in (("z", z, c), ("a", a, m), ("b", b, m)):
        if image.shape != (n, channels, h, w):
            raise ValueError(
                f"hourglass_gate: {name} must be {[n, channels, h, w]} beside x {list(x.shape)}, got {describe(image)}"
            )
        if image.dtype != x.dtype:
            raise TypeError(f"hourglass_gate: {name} must have x's dtype {x.dtype}, got {describe(image)}")
        if image.device != x.device:
            raise ValueError(
                f"hourglass_gate: {name} is on {image.device} and x on {x.device}; move them to one device"
            )


def _check_convolution(weight: Tensor, bias: Tensor, a: Tensor) -> None:
    for name, parameter, shape in (("weight", weight, (1, a.shape[1], 3, 3)), ("bias", bias, (1,))):
        if not isinstance(parameter, Tensor):
            raise TypeError(f"hourglass_gate: {name} must be a tensor, got {describe(parameter)}")
        if parameter.dtype not in (a.dtype, torch.float32):
            wanted = f"x's dtype {a.dtype} or float32"
            raise TypeError(f"hourglass_gate: {name} must have {wanted}, got {describe(parameter)}")
        if parameter.shape != shape:
            raise ValueError(f"hourglass_gate: {name} must be {list(shape)}, got {describe(parameter)}")
        if parameter.device != a.device:
            raise ValueError(
                f"hourglass_gate: {name} is on {parameter.device} and x on {a.device}; move them to one device"
            )


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
