"""Self-attention across channels, whole (SA, Section III-B1, Eq. 2-6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..reference.attention import channel_attention_ref
from . import backends
from ._arguments import arguments, image, parameter
from ._devices import triton_problem
from ._library import (
    Needs,
    autocasts,
    cuda_kernels,
    describe,
    differentiable,
    empty_as,
    laid_out,
    library,
    memory_format,
    triton_kernels,
)
from .extension import load

library.define(
    "channel_attention_fwd(Tensor x, Tensor qkv_weight, Tensor dw_weight, Tensor? temperature, Tensor proj_weight,"
    ' int heads, bool keep, Tensor? packed=None, str backend="auto")'
    " -> (Tensor y, Tensor gram, Tensor attn, Tensor kept)"
)
# Gradients that are not needed come back with no elements.
library.define(
    "channel_attention_bwd(Tensor dy, Tensor x, Tensor qkv_weight, Tensor dw_weight, Tensor? temperature,"
    " Tensor proj_weight, Tensor gram, Tensor attn, Tensor kept, int heads, bool need_x, bool need_qkv,"
    ' bool need_dw, str backend="auto")'
    " -> (Tensor dx, Tensor dqkv_weight, Tensor ddw_weight, Tensor dtemperature, Tensor dproj_weight)"
)
backends.register("channel_attention", "cpu", "cpu", lambda: load("_C")[1])
_take = arguments(
    "channel_attention",
    image("x"),
    parameter("qkv_weight", "[3*C, C, 1, 1]"),
    parameter("dw_weight", "[3*C, 1, 3, 3]"),
    parameter("temperature", "[heads, 1, 1]", optional=True),
    parameter("proj_weight", "[C, C, 1, 1]"),
    given=("heads",),
)
MOST_IN_HEAD = 96  # csrc/cuda/channel_attention_small.cuh


def _about(*arguments: Any) -> tuple[Tensor, int]:
    x = arguments[0]  # dy in the backward, which is alike
    return x, x.shape[1]


def _refuses(*arguments: Any) -> str:
    heads = next(argument for argument in arguments if type(argument) is int)
    x = arguments[0]
    n, c, h, w = x.shape
    if x.dtype == torch.float64:
        return "float64 is for the CPU"
    if c // heads > MOST_IN_HEAD:
        return f"heads of more than {MOST_IN_HEAD} channels"
    if n * -(-h // 8) * -(-w // 16) * 3 * c >= 1 << 31:
        return "more tiles of pixels than a launch has blocks"
    return ""


cuda_kernels("channel_attention", about=_about, refuses=_refuses)
triton_kernels("channel_attention")

# On the CPU: with so many channels making the 1x1 convolution's output again costs the backward more than keeping it:
# the work grows with C^2 a pixel, what is kept with C. (With few, at large images, that is also most of the memory.)
# A GPU waits for memory, not for products, where making it again costs reading x and writing 3C channels: it keeps it.
KEEP_CHANNELS = 64


def channel_attention(
    x: Tensor,
    qkv_weight: Tensor,
    dw_weight: Tensor,
    temperature: Tensor | None,
    proj_weight: Tensor,
    heads: int,
    backend: str | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """q, k, v = dw3x3(conv1x1(x)); y = conv1x1(softmax(temperature * q k^T / (|q| |k|)) v)      (Eq. 2-6)

    Attention is between the C / heads channels of each head, each a vector of all H*W positions, with the norms of
    torch.nn.functional.normalize. The convolutions have no biases; the 3x3 pads by one zero.

    Args:
        x: [N, C, H, W] of float32, float64, bfloat16 or float16, in any layout; channels_last is the fastest.
        qkv_weight: [3C, C, 1, 1]: q's channels, then k's, then v's, head by head in each.
        dw_weight: [3C, 1, 3, 3].
        temperature: [heads, 1, 1]; None: q k^T / sqrt(H*W) instead, without norms.
        proj_weight: [C, C, 1, 1]. All parameters are of x's dtype or float32.
        heads: divides C.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".
        packed: `channel_attention_prepack(qkv_weight)` of this very weight, to save its time where it does not change
            between calls; the result is the same. It is not used where it is of no use.

    Returns:
        [N, C, H, W] of x's dtype, under autocast of autocast's; all sums and the softmax are float32 (float64 for
        float64) whatever the dtype. channels_last if x's channels are neighbours in memory, contiguous otherwise.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    _check_heads(x, heads)
    x, *parameters = _take(x, qkv_weight, dw_weight, temperature, proj_weight, heads=heads)
    chosen = backends.choose("channel_attention", x.device.type, backend, x.dtype)
    if chosen == "reference":
        return _reference(x, qkv_weight, dw_weight, temperature, proj_weight, heads)
    _check_packed(packed, qkv_weight)
    keep = (x.is_cuda or x.shape[1] >= KEEP_CHANNELS) and torch.is_grad_enabled()
    keep = keep and (x.requires_grad or any(p is not None and p.requires_grad for p in parameters))
    return _call(x, qkv_weight, dw_weight, temperature, proj_weight, heads, keep, packed, chosen)[0]


def channel_attention_prepack(qkv_weight: Tensor) -> Tensor | None:
    """What `channel_attention` makes of qkv_weight before it can use it, for its argument `packed`.

    It is a copy: whoever keeps it must make it anew when the weight changes (its `data_ptr()`, `_version` or dtype).

    Args:
        qkv_weight: as that of `channel_attention`.

    Returns:
        On CUDA devices with Triton the float32 weight in bfloat16, which serves x of bfloat16 and autocast to it. None
        where the operator would not use it.

    Raises:
        TypeError: qkv_weight is not a tensor.
    """
    if not isinstance(qkv_weight, Tensor):
        raise TypeError(f"channel_attention: qkv_weight must be a tensor, got {describe(qkv_weight)}")
    if not qkv_weight.is_cuda or qkv_weight.dtype != torch.float32 or triton_problem():
        return None
    if backends.choose("channel_attention", qkv_weight.device.type, None, torch.bfloat16) == "reference":
        return None
    return qkv_weight.detach().to(torch.bfloat16)


def _check_packed(packed: Tensor | None, qkv_weight: Tensor) -> None:
    if packed is None:
        return
    if not isinstance(packed, Tensor) or packed.dtype != torch.bfloat16:
        raise TypeError(f"channel_attention: packed must be a bfloat16 tensor or None, got {describe(packed)}")
    if packed.shape != qkv_weight.shape or packed.device != qkv_weight.device:
        wanted = f"channel_attention_prepack of qkv_weight, {list(qkv_weight.shape)} on {qkv_weight.device}"
        raise ValueError(f"channel_attention: packed must be {wanted}, got {describe(packed)}")


def _check_heads(x: Tensor, heads: int) -> None:
    if not isinstance(heads, int) or isinstance(heads, bool):
        raise TypeError(f"channel_attention: heads must be an int, got {describe(heads)}")
    if isinstance(x, Tensor) and x.dim() == 4 and (heads < 1 or x.shape[1] % heads != 0):
        raise ValueError(f"channel_attention: heads must divide the {x.shape[1]} channels of x, got {heads}")


def _reference(
    x: Tensor, qkv_weight: Tensor, dw_weight: Tensor, temperature: Tensor | None, proj_weight: Tensor, heads: int
) -> Tensor:
    """The reference, kept to this operator's promises on dtype and layout."""
    qkv_weight, dw_weight, proj_weight = (w.to(x.dtype) for w in (qkv_weight, dw_weight, proj_weight))
    temperature = temperature if temperature is None else temperature.to(x.dtype)
    # Under autocast as it is, which takes norms and softmax in float32 on CUDA devices.
    y = channel_attention_ref(x, qkv_weight, dw_weight, temperature, proj_weight, heads)
    return laid_out(y, memory_format(x))


@torch.library.register_fake("aminet_fast::channel_attention_fwd", lib=library)
def _forward_fake(
    x: Tensor,
    qkv_weight: Tensor,
    dw_weight: Tensor,
    temperature: Tensor | None,
    proj_weight: Tensor,
    heads: int,
    keep: bool,
    packed: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch._check(x.device == qkv_weight.device)
    n, c, h, w = x.shape
    torch._check(qkv_weight.shape[0] == 3 * c)
    d = c // heads

    def sums(size: tuple[int, ...]) -> Tensor:
        return x.new_empty(size, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)

    # The CPU's loops want planes of their sums' type; a GPU's kernels what the product writes, of x's dtype.
    kept = sums((n, 3 * c, h, w) if keep else (0,))
    if x.device.type != "cpu":
        kept = kept.to(x.dtype, memory_format=torch.channels_last if keep else torch.contiguous_format)
    return empty_as(x), sums((n, c * d + 2 * c)), sums((n, c, d)), kept


@torch.library.register_fake("aminet_fast::channel_attention_bwd", lib=library)
def _backward_fake(
    dy: Tensor,
    x: Tensor,
    qkv_weight: Tensor,
    dw_weight: Tensor,
    temperature: Tensor | None,
    proj_weight: Tensor,
    gram: Tensor,
    attn: Tensor,
    kept: Tensor,
    heads: int,
    need_x: bool,
    need_qkv: bool,
    need_dw: bool,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    torch._check(dy.shape == x.shape)

    def gradient(of: Tensor, needed: bool) -> Tensor:
        return of.new_empty(of.shape if needed else (0,))

    return (
        empty_as(x) if need_x else x.new_empty((0,)),
        gradient(qkv_weight, need_qkv),
        gradient(dw_weight, need_dw),
        gram.new_empty((0,)) if temperature is None else gradient(temperature, True),
        gradient(proj_weight, True),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.heads, _, _, ctx.backend = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, needs: Needs, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, qkv, dw = needs[:3]
    arguments = dy, *ctx.saved_tensors, ctx.heads, x, qkv, dw, ctx.backend
    gradients = torch.ops.aminet_fast.channel_attention_bwd(*arguments)
    wanted = (gradient if need else None for gradient, need in zip(gradients, needs[:5], strict=True))
    return (*wanted, None, None, None, None)


autocasts("channel_attention", "x")
_call = differentiable("channel_attention", _setup_context, _backward)
