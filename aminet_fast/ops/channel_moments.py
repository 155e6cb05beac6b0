"""Mean and variance of each channel over a batch, what batch normalisation needs of FRM's input (Eq. 11)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.frm import channel_moments_ref
from . import backends
from ._arguments import arguments, image
from ._library import Needs, autocasts, differentiable, empty_as, library, triton_kernels
from .extension import load

library.define("channel_moments_fwd(Tensor x) -> (Tensor mean, Tensor var)")
library.define("channel_moments_bwd(Tensor dmean, Tensor dvar, Tensor x, Tensor mean) -> Tensor dx")
backends.register("channel_moments", "cpu", "cpu", lambda: load("_C")[1])
triton_kernels("channel_moments", float64=True)
_take = arguments("channel_moments", image("x"))


def channel_moments(x: Tensor, backend: str | None = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over N, H and W.

    Args:
        x: [N, C, H, W] of float32, float64, bfloat16 or float16, in any layout; channels_last is the fastest.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".

    Returns:
        mean [C] and var [C], float32 (float64 for float64) whatever the dtype; under autocast those of x in autocast's
        dtype, as the other operators read it.

    Raises:
        TypeError, ValueError: x is not as above.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    (x,) = _take(x)
    if backends.choose("channel_moments", x.device.type, backend, x.dtype) == "reference":
        return channel_moments_ref(x.to(torch.promote_types(x.dtype, torch.float32)))
    mean, var = _call(x)
    return mean, var


@torch.library.register_fake("aminet_fast::channel_moments_fwd", lib=library)
def _forward_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape[1], dtype=dtype), x.new_empty(x.shape[1], dtype=dtype)


@torch.library.register_fake("aminet_fast::channel_moments_bwd", lib=library)
def _backward_fake(dmean: Tensor, dvar: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    return empty_as(x)


def _setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _backward(ctx: Any, needs: Needs, dmean: Tensor, dvar: Tensor) -> tuple[Tensor]:
    return (torch.ops.aminet_fast.channel_moments_bwd(dmean, dvar, *ctx.saved_tensors),)


autocasts("channel_moments", "x")
_call = differentiable("channel_moments", _setup_context, _backward)
