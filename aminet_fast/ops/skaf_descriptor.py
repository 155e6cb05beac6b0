"""SKAF's descriptor: mean and max over the channels of its convolutions (Section III-B3, Eq. 12-14)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.skaf import skaf_descriptor_ref
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
    plainly,
    triton_kernels,
)
from .extension import load

library.define(
    'skaf_descriptor_fwd(Tensor x, Tensor[] weights, Tensor[] biases, Tensor? packed=None, str backend="auto")'
    " -> (Tensor m, Tensor argmax)",
)
library.define("skaf_descriptor_prepack(Tensor[] weights) -> Tensor")  # on the CPU
library.define("skaf_descriptor_pack(Tensor[] weights, ScalarType dtype) -> Tensor")  # on CUDA devices
library.define('skaf_descriptor_bwd_input(Tensor dm, Tensor argmax, Tensor[] weights, str backend="auto") -> Tensor dx')
# The same from what forward was given as `packed`; on the CPU that serves forward alone.
library.define(
    "skaf_descriptor_bwd_packed(Tensor dm, Tensor argmax, Tensor[] weights, Tensor packed,"
    ' str backend="auto") -> Tensor dx'
)
library.define(
    'skaf_descriptor_bwd_parameters(Tensor dm, Tensor x, Tensor argmax, Tensor[] weights, str backend="auto")'
    " -> (Tensor[] dweights, Tensor[] dbiases)"
)
backends.register("skaf_descriptor", "cpu", "cpu", lambda: load("_C")[1])


def _about(*arguments: Any) -> tuple[Tensor, int]:
    """x, or dm, whose pixels are x's; and x's channels."""
    weights = next(a for a in arguments if isinstance(a, list))
    return arguments[0], weights[0].shape[1]


def _refuses(*arguments: Any) -> str:
    data, weights = arguments[0], next(a for a in arguments if isinstance(a, list))
    if len(weights) > 2 or max(weight.shape[-1] for weight in weights) > 7:
        return "more than two convolutions, or one larger than 7x7"
    if sum(weight.shape[0] for weight in weights) > 512:
        return "more than 512 channels to take the maximum of"
    if max(data.shape[2:]) >= 2**15:
        return "images of 32768 rows or columns"
    return ""


_BACKWARD = ("bwd_input", "bwd_packed", "bwd_parameters")
cuda_kernels("skaf_descriptor", ("fwd", *_BACKWARD), about=_about, refuses=_refuses, tf32=("fwd",))
triton_kernels("skaf_descriptor", ("fwd", *_BACKWARD, "pack"))
_take = arguments(
    "skaf_descriptor",
    image("x"),
    parameter("weights", "[C_k, C, k, k] of odd k", listed=True),
    parameter("biases", "[outputs[i]]", listed=True),
    given=("outputs",),
)


def skaf_descriptor(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    backend: str | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """m = [mean, max] over the channels of u = cat(conv_k(x)), dense convolutions that keep the size (Eq. 12-14).

    u is not kept for backward: its gradient has one value in all channels, of the mean, and one more in the channel of
    the max, so the index of the max is enough. Where several channels are the max, it is the first of them.

    On the CPU float32 convolutions of sizes 5 and 7 (in this order) are Winograd's. Their rounding error is two to six
    times that of the direct ones, and a value that is not finite also reaches pixels up to seven away. On CUDA devices
    an infinity may make NaN of the channels of a smaller convolution wherever it is in reach of a larger one, and
    float32 products are exact unless torch.backends.cuda.matmul.allow_tf32 or its successor allows TF32.

    Args:
        x: [N, C, H, W] of float32, float64, bfloat16 or float16, in any layout; channels_last is the fastest.
        weights: one [C_k, C, k, k] of odd k for each convolution, of x's dtype or float32; channels_last is fastest.
        biases: one [C_k] for each convolution, of x's dtype or float32.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".
        packed: `skaf_descriptor_prepack(weights)` of these very weights, to save its time where they do not change
            between calls, of x's dtype; the result is the same. It is not used where it is of no use.

    Returns:
        [N, 2, H, W], contiguous, of x's dtype, under autocast of autocast's, as the convolutions are. Sums of gradients
        are float32 (float64 for float64) whatever the dtype.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    _check_tensors("weights", weights)
    _check_tensors("biases", biases)
    if not weights or len(weights) != len(biases):
        raise ValueError(
            "skaf_descriptor: weights and biases must have one entry for each convolution and at least one, "
            f"got {len(weights)} and {len(biases)}"
        )
    x, weights, biases = _take(x, weights, biases, outputs=[w.shape[0] if w.dim() else 0 for w in weights])
    chosen = backends.choose("skaf_descriptor", x.device.type, backend, x.dtype)
    if chosen == "reference":
        weights, biases = [w.to(x.dtype) for w in weights], [b.to(x.dtype) for b in biases]
        with plainly(x):
            return skaf_descriptor_ref(x, weights, biases).contiguous()
    _check_packed(packed, weights)
    backward = x.requires_grad and torch.is_grad_enabled()
    if backward and (packed is None or packed.dtype != x.dtype) and (chosen == "triton" or _packs_on(x.device.type)):
        # One launch lays them out for forward and for x's gradient.
        packed = torch.ops.aminet_fast.skaf_descriptor_pack([weight.detach() for weight in weights], x.dtype)
    return _call(x, weights, biases, packed, chosen)[0]


def skaf_descriptor_prepack(weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor | None:
    """What `skaf_descriptor` makes of its weights before it can use them, for its argument `packed`.

    It is a copy: whoever keeps it must make it anew when the weights change (their `data_ptr()`, `_version` or dtype).

    Args:
        weights: as those of `skaf_descriptor`.
        dtype: of the x that it is to serve, or of autocast. None: the weights' own, but bfloat16 for float32 weights on
            CUDA devices.

    Returns:
        [1-d]; None where the operator would not use it. On the CPU float32, 1.7 times as large as the weights, for
        float32 weights of sizes 5 and 7 (in this order) and at least 8 inputs. On CUDA devices of `dtype`, with all
        sizes filled up to the largest, and their mean: 1.4 times as many numbers as sizes 5 and 7 have.

    Raises:
        TypeError: weights is not a list of tensors.
    """
    _check_tensors("weights", weights)
    first, given = weights[0], [weight.detach() for weight in weights]
    chosen = backends.choose("skaf_descriptor", first.device.type, None, first.dtype)
    of_these = _packing(weights, dtype)
    if of_these is None or chosen == "reference":
        return None
    if not first.is_cuda:
        return torch.ops.aminet_fast.skaf_descriptor_prepack(given)
    return torch.ops.aminet_fast.skaf_descriptor_pack(given, of_these[0]) if _packs_on("cuda") else None


def _packing(weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> tuple[torch.dtype, int] | None:
    """Dtype and size of what they are packed into for x of `dtype`, if they are; None: as `skaf_descriptor_prepack`."""
    sizes = [tuple(weight.shape[1:]) for weight in weights]
    inputs, device, dtypes = sizes[0][0], weights[0].device.type, {weight.dtype for weight in weights}
    if device == "cuda":
        wanted = dtype or next(iter(dtypes - {torch.float32}), torch.bfloat16)
        served = wanted in (torch.float32, torch.bfloat16, torch.float16) and dtypes <= {torch.float32, wanted}
        return (wanted, _packed_size(weights)) if served else None
    # The rules of the CPU's kernels too: has_winograd in csrc/cpu/skaf_winograd.cpp, and winograd_weight_size in
    # csrc/cpu/winograd.h: eight points each way, outputs by the eight.
    floats = dtypes == {torch.float32} and dtype in (None, torch.float32)
    if device == "cpu" and floats and sizes == [(inputs, 5, 5), (inputs, 7, 7)] and inputs >= 8:
        return torch.float32, sum((weight.shape[0] + 7) // 8 * 8 * inputs * 64 for weight in weights)
    return None


def _packed_size(weights: Sequence[Tensor]) -> int:
    """On CUDA devices: a row for each output and one more, as kernels/skaf_descriptor_forward.py has them."""
    window = max(weight.shape[-1] for weight in weights)
    return (sum(weight.shape[0] for weight in weights) + 1) * window * window * weights[0].shape[1]


def _check_packed(packed: Tensor | None, weights: Sequence[Tensor]) -> None:
    if packed is None:
        return
    wanted = "floating-point" if weights[0].device.type == "cuda" else "float32"
    fits = isinstance(packed, Tensor) and packed.dim() == 1 and packed.is_floating_point()
    if not fits or wanted not in ("floating-point", str(packed.dtype).removeprefix("torch.")):
        raise TypeError(f"skaf_descriptor: packed must be a 1-d {wanted} tensor or None, got {describe(packed)}")
    if _packing(weights, packed.dtype) != (packed.dtype, packed.shape[0]) or packed.device != weights[0].device:
        raise ValueError(
            f"skaf_descriptor: packed must be skaf_descriptor_prepack of weights, got {describe(packed)} "
            f"for weights {', '.join(describe(weight) for weight in weights)}"
        )


def _check_tensors(name: str, tensors: object) -> None:
    if not isinstance(tensors, (list, tuple)):
        raise TypeError(f"skaf_descriptor: {name} must be a list of tensors, got {describe(tensors)}")
    if not all(isinstance(t, Tensor) for t in tensors):
        came = f"{type(tensors).__name__} of {', '.join(sorted({type(t).__name__ for t in tensors}))}"
        raise TypeError(f"skaf_descriptor: {name} must be a list of tensors, got {came}")


@torch.compiler.assume_constant_result
def _packs_on(device: str) -> bool:
    """Whether skaf_descriptor_pack, which is Triton's alone, can serve tensors there."""
    return device == "cuda" and not triton_problem()


@torch.library.register_fake("aminet_fast::skaf_descriptor_fwd", lib=library)
def _forward_fake(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], packed: Tensor | None = None, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    torch._check(len(weights) == len(biases) and len(weights) > 0)
    n, c, h, w = x.shape
    for weight in weights:
        torch._check(x.device == weight.device and weight.shape[1] == c)
    return x.new_empty((n, 2, h, w)), x.new_empty((n, h, w), dtype=torch.int32)


@torch.library.register_fake("aminet_fast::skaf_descriptor_prepack", lib=library)
def _prepack_fake(weights: list[Tensor]) -> Tensor:
    of_these = _packing(weights)
    assert of_these is not None, "skaf_descriptor_prepack: weights are not packed, see the public function"
    return weights[0].new_empty(of_these[1], dtype=of_these[0])


@torch.library.register_fake("aminet_fast::skaf_descriptor_pack", lib=library)
def _pack_fake(weights: list[Tensor], dtype: torch.dtype) -> Tensor:
    return weights[0].new_empty(_packed_size(weights), dtype=dtype)


@torch.library.register_fake("aminet_fast::skaf_descriptor_bwd_input", lib=library)
def _backward_input_fake(dm: Tensor, argmax: Tensor, weights: list[Tensor], backend: str = "auto") -> Tensor:
    n, _, h, w = dm.shape
    return dm.new_empty((n, h, w, weights[0].shape[1])).permute(0, 3, 1, 2)


@torch.library.register_fake("aminet_fast::skaf_descriptor_bwd_packed", lib=library)
def _backward_packed_fake(
    dm: Tensor, argmax: Tensor, weights: list[Tensor], packed: Tensor, backend: str = "auto"
) -> Tensor:
    return _backward_input_fake(dm, argmax, weights)


def _backward_packed(
    dm: Tensor, argmax: Tensor, weights: list[Tensor], packed: Tensor, backend: str = "auto"
) -> Tensor:
    return torch.ops.aminet_fast.skaf_descriptor_bwd_input(dm, argmax, weights, backend)


library.impl("skaf_descriptor_bwd_packed", _backward_packed, "CPU")


@torch.library.register_fake("aminet_fast::skaf_descriptor_bwd_parameters", lib=library)
def _backward_parameters_fake(
    dm: Tensor, x: Tensor, argmax: Tensor, weights: list[Tensor], backend: str = "auto"
) -> tuple[list[Tensor], list[Tensor]]:
    torch._check(dm.shape[0] == x.shape[0])
    dweights = [empty_as(w) for w in weights]
    return dweights, [w.new_empty(w.shape[0]) for w in weights]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weights, biases, packed, ctx.backend = inputs
    _, argmax = output
    ctx.mark_non_differentiable(argmax)
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.bias_dtypes = [bias.dtype for bias in biases]
    ctx.save_for_backward(x, argmax, packed, *weights)


def _backward(
    ctx: Any, needs: Needs, dm: Tensor, _argmax: Tensor
) -> tuple[Tensor | None, list[Any], list[Any], None, None]:
    x, argmax, packed, *weights = ctx.saved_tensors
    needs_x, needs_weights, needs_biases, *_ = needs
    dx, dweights, dbiases = None, [None] * len(weights), [None] * len(weights)
    if needs_x:
        dm = dm.to(x.dtype)
        if packed is None:
            dx = torch.ops.aminet_fast.skaf_descriptor_bwd_input(dm, argmax, weights, ctx.backend)
        else:
            dx = torch.ops.aminet_fast.skaf_descriptor_bwd_packed(dm, argmax, weights, packed, ctx.backend)
        dx = laid_out(dx, memory_format(x))
    if any(needs_weights) or any(needs_biases):
        dweights, dbiases = torch.ops.aminet_fast.skaf_descriptor_bwd_parameters(dm, x, argmax, weights, ctx.backend)
        dbiases = [bias.to(dtype) for bias, dtype in zip(dbiases, ctx.bias_dtypes, strict=True)]
    return dx, dweights, dbiases, None, None


autocasts("skaf_descriptor", "x")
_call = differentiable("skaf_descriptor", _setup_context, _backward, _BACKWARD)
