"""Depthwise convolutions of several sizes in one pass, RDFE's branches (Section III-B2, Eq. 7, 9, 10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.rdfe import multiscale_dwconv_ref
from . import backends
from ._arguments import arguments, image, odd_sizes, parameter
from ._library import (
    Needs,
    autocasts,
    describe,
    differentiable,
    laid_out,
    library,
    plainly,
    triton_kernels,
)
from .extension import load

# x is one tensor for all branches, or one each; a bias with no elements stands for none.
library.define("multiscale_dwconv_fwd(Tensor[] x, Tensor[] weights, Tensor[] biases, Tensor? scale) -> Tensor[] y")
# Gradients that are not needed come back as empty lists, dscale with no elements.
library.define(
    "multiscale_dwconv_bwd(Tensor[] dy, Tensor[] x, Tensor[] weights, Tensor? scale,"
    " bool need_x, bool need_weights, bool need_scale)"
    " -> (Tensor[] dx, Tensor[] dweights, Tensor[] dbiases, Tensor dscale)"
)
backends.register("multiscale_dwconv", "cpu", "cpu", lambda: load("_C")[1])
triton_kernels("multiscale_dwconv", float64=True)
_take = arguments(
    "multiscale_dwconv",
    image("x"),
    image("x", listed=True, optional=True),
    parameter("weights", "[C, 1, K[i], K[i]]", listed=True),
    parameter("biases", "[C]", listed=True, optional=True),
    parameter("scale", "[N, C, 1, 1]", optional=True),
    given=("K",),
    dtype_words="must be {dtypes}, for {first} of {dtype}",
)


def multiscale_dwconv(
    x: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    scale: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """y_k = DW_k(x_k * scale) + b_k for every branch k, same size (Eq. 7; with a scale Eq. 9 and the DW of Eq. 10).

    x is read once, whatever the number of branches that share it; x * scale and the gradients of single branches with
    respect to a shared x are never stored.

    Args:
        x: [N, C, H, W], shared by the branches, or a sequence of one for each branch; of one dtype out of float32,
            float64, bfloat16 and float16, in any layout; channels_last is the fastest.
        weights: [C, 1, K, K] of odd K for each branch, of x's dtype or float32.
        biases: [C] or None for each branch, of x's dtype or float32.
        scale: None, or [N, C, 1, 1] of x's dtype or float32, which weighs the channels of the input(s).
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        One [N, C, H, W] for each branch, channels_last, of x's dtype, under autocast of autocast's, as convolutions
        are. Sums are float32 (float64 for float64) whatever the dtype.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    images, weights, biases = _check(x, weights, biases, scale)
    first = images[0]
    if backends.choose("multiscale_dwconv", first.device.type, backend, first.dtype) == "reference":
        return _reference(images, weights, biases, scale)
    parameters = [first.new_empty(0) if bias is None else bias for bias in biases]
    return tuple(_call(images, weights, parameters, scale))


def _check(
    x: Tensor | Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor | None], scale: Tensor | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor | None]]:
    """The arguments as lists, x of one or of one for each branch; else TypeError or ValueError."""
    if not isinstance(x, (Tensor, list, tuple)):
        raise TypeError(f"multiscale_dwconv: x must be a tensor or a list of tensors, got {describe(x)}")
    images = [x] if isinstance(x, Tensor) else list(x)
    for name, tensors in (("weights", weights), ("biases", biases)):
        if not isinstance(tensors, (list, tuple)):
            raise TypeError(f"multiscale_dwconv: {name} must be a list, one for each branch, got {describe(tensors)}")
    if not weights or len(weights) != len(biases):
        raise ValueError(
            "multiscale_dwconv: weights and biases must have one entry for each branch and at least one, "
            f"got {len(weights)} and {len(biases)}"
        )
    if not isinstance(x, Tensor) and len(images) != len(weights):
        raise ValueError(
            f"multiscale_dwconv: x must be one tensor or {len(weights)}, one for each of weights, got {len(images)}"
        )
    # The first image has entered when the others are looked at.
    first, others, *parameters, _ = _take(images[0], [None, *images[1:]], weights, biases, scale, K=odd_sizes(weights))
    return [first, *others[1:]], *parameters


def _reference(
    images: list[Tensor], weights: list[Tensor], biases: list[Tensor | None], scale: Tensor | None
) -> tuple[Tensor, ...]:
    """The reference, kept to this operator's promises on dtype and layout."""
    dtype = images[0].dtype
    weights = [weight.to(dtype) for weight in weights]
    biases = [bias if bias is None else bias.to(dtype) for bias in biases]
    scale = scale if scale is None else scale.to(dtype)
    x = images[0] if len(images) == 1 else images
    with plainly(images[0]):
        outputs = multiscale_dwconv_ref(x, weights, biases, scale)
    return tuple(laid_out(y, torch.channels_last) for y in outputs)


def _like(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x.new_empty((n, h, w, c)).permute(0, 3, 1, 2)


@torch.library.register_fake("aminet_fast::multiscale_dwconv_fwd", lib=library)
def _forward_fake(x: list[Tensor], weights: list[Tensor], biases: list[Tensor], scale: Tensor | None) -> list[Tensor]:
    torch._check(len(weights) == len(biases) and len(x) in (1, len(weights)))
    for weight in weights:
        torch._check(x[0].device == weight.device and weight.shape[0] == x[0].shape[1])
    return [_like(x[0]) for _ in weights]


@torch.library.register_fake("aminet_fast::multiscale_dwconv_bwd", lib=library)
def _backward_fake(
    dy: list[Tensor],
    x: list[Tensor],
    weights: list[Tensor],
    scale: Tensor | None,
    need_x: bool,
    need_weights: bool,
    need_scale: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    torch._check(len(dy) == len(weights))
    dx = [_like(image) for image in x] if need_x else []
    some = weights if need_weights else []
    dweights, dbiases = [w.new_empty(w.shape) for w in some], [w.new_empty(w.shape[0]) for w in some]
    dscale = scale.new_empty(scale.shape) if need_scale and scale is not None else x[0].new_empty(0)
    return dx, dweights, dbiases, dscale


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x, weights, biases, scale = inputs
    ctx.images = len(x)
    ctx.biases = [bias.dtype if bias.numel() else None for bias in biases]
    ctx.save_for_backward(*x, *weights, scale)


def _backward(ctx: Any, needs: Needs, dy: list[Tensor | None]) -> tuple[Any, Any, Any, Tensor | None]:
    *saved, scale = ctx.saved_tensors
    x, weights = saved[: ctx.images], saved[ctx.images :]
    need_x, need_weights, need_biases, need_scale = needs
    parameters = any(need_weights) or any(need_biases)
    dy = [torch.zeros_like(x[0]) if gradient is None else gradient for gradient in dy]
    dx, dweights, dbiases, dscale = torch.ops.aminet_fast.multiscale_dwconv_bwd(
        dy, x, weights, scale, any(need_x), parameters, need_scale
    )
    if parameters:
        pairs = zip(dbiases, ctx.biases, strict=True)
        dbiases = [None if dtype is None else bias.to(dtype) for bias, dtype in pairs]
    none = [None] * len(weights)
    return dx or none[: len(x)], dweights or none, dbiases or none, dscale if need_scale else None


autocasts("multiscale_dwconv", "x")
_call = differentiable("multiscale_dwconv", _setup_context, _backward)
