"""Batch normalisation of vectors: from moments to a scale and a shift, and back (Eq. 11)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.frm import batch_norm_affine_ref
from . import backends
from ._arguments import arguments, parameter
from ._library import Needs, differentiable, library, triton_kernels
from .extension import load

# scale, shift, scale, shift, ...: one pair for each use.
library.define(
    "batch_norm_affine_fwd(Tensor weight, Tensor bias, Tensor mean, Tensor var, float eps, int uses) -> Tensor[]"
)
library.define(
    "batch_norm_affine_bwd(Tensor[] dscales, Tensor[] dshifts, Tensor weight, Tensor bias, Tensor mean, Tensor var,"
    " float eps) -> (Tensor dweight, Tensor dbias, Tensor dmean, Tensor dvar)"
)
backends.register("batch_norm_affine", "cpu", "cpu", lambda: load("_C")[1])
triton_kernels("batch_norm_affine", float64=True)
_take = arguments(
    "batch_norm_affine",
    parameter("weight", "[C]"),
    parameter("bias", "[C]", or_float32=False),
    parameter("mean", "[C]"),
    parameter("var", "[C]"),
    dtype_words="must be {dtypes}",
    shape_words="must be {wanted}, as {first} is",
)


def batch_norm_affine(
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float = 1e-5,
    uses: int = 1,
    backend: str | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """scale = weight / sqrt(var + eps), shift = bias - mean * scale: batch normalisation as y = x * scale + shift.

    With the moments of the batch its gradient is batch normalisation's: what comes through mean and var is theirs.

    Args:
        weight, bias: [C] of float32, float64, bfloat16 or float16, of one dtype.
        mean, var: [C], the biased variance; of weight's dtype or float32.
        eps: added to the variance; not negative.
        uses: how often the map is applied. Each use gets a pair of its own, so that the gradients of all of them are
            added where they meet, and by no launches of their own.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        `uses` pairs (scale, shift), [C] each, float32 (float64 for float64) whatever the dtype.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    _take(weight, bias, mean, var)
    if not eps >= 0:
        raise ValueError(f"batch_norm_affine: eps must not be negative, got {eps}")
    if not isinstance(uses, int) or isinstance(uses, bool) or uses < 1:
        raise ValueError(f"batch_norm_affine: uses must be a number of at least 1, got {uses!r}")
    if backends.choose("batch_norm_affine", weight.device.type, backend, weight.dtype) == "reference":
        wide = torch.promote_types(weight.dtype, torch.float32)
        weight, bias, mean, var = (t.to(wide) for t in (weight, bias, mean, var))
        return [batch_norm_affine_ref(weight, bias, mean, var, eps)] * uses
    found = _call(weight, bias, mean, var, eps, uses)
    return list(zip(found[::2], found[1::2], strict=True))


@torch.library.register_fake("aminet_fast::batch_norm_affine_fwd", lib=library)
def _forward_fake(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, uses: int) -> list[Tensor]:
    torch._check(weight.device == mean.device and weight.shape[0] == mean.shape[0])
    wide = torch.promote_types(weight.dtype, torch.float32)
    return [weight.new_empty(weight.shape, dtype=wide) for _ in range(2 * uses)]


@torch.library.register_fake("aminet_fast::batch_norm_affine_bwd", lib=library)
def _backward_fake(
    dscales: list[Tensor],
    dshifts: list[Tensor],
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dweight, dbias, dmean, dvar = (t.new_empty(t.shape) for t in (weight, bias, mean, var))
    return dweight, dbias, dmean, dvar


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *vectors, ctx.eps, _ = inputs
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.save_for_backward(*vectors)


def _backward(ctx: Any, needs: Needs, gradients: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    dscales = [g for g in gradients[::2] if g is not None]
    dshifts = [g for g in gradients[1::2] if g is not None]
    if not any(needs[:4]) or not (dscales or dshifts):
        return (None,) * 6
    found = torch.ops.aminet_fast.batch_norm_affine_bwd(dscales, dshifts, *ctx.saved_tensors, ctx.eps)
    return *(g if need else None for g, need in zip(found, needs[:4], strict=True)), None, None


_call = differentiable("batch_norm_affine", _setup_context, _backward)
