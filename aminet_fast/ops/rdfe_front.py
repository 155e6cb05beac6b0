"""RDFE's front: depthwise branches weighed by one unit, filtered again and fused (Section III-B2, Eq. 7-10)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..reference.rdfe import rdfe_front_ref
from . import backends
from ._arguments import arguments, image, odd_sizes, parameter
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

# parameters: rdfe_front's after y in their order, the lists laid out; 4 for each branch and 6 more.
# a and sums are what backward needs of y's statistics: AU's vector, and sums of y over what each tap meets.
library.define(
    'rdfe_front_fwd(Tensor y, Tensor[] parameters, Tensor? packed=None, str backend="auto")'
    " -> (Tensor z, Tensor a, Tensor sums)"
)
# Of the depthwise convolutions, the first ones and then the second ones.
library.define("rdfe_front_prepack(Tensor[] weights, Tensor[] biases) -> Tensor packed")
# Gradients that are not needed come back with no elements, or as an empty list.
library.define(
    "rdfe_front_bwd(Tensor dz, Tensor y, Tensor a, Tensor sums, Tensor[] parameters,"
    ' bool need_y, bool need_parameters, str backend="auto") -> (Tensor dy, Tensor[] dparameters)'
)
backends.register("rdfe_front", "cpu", "cpu", lambda: load("_C")[1])


def _given(*arguments: Any) -> tuple[Tensor, list[Tensor]]:
    """y and the parameters, of the forward's arguments or the backward's."""
    return arguments[1 if isinstance(arguments[1], Tensor) else 0], next(a for a in arguments if isinstance(a, list))


def _about(*arguments: Any) -> tuple[Tensor, int]:
    y, _ = _given(*arguments)
    return y, y.shape[1]


def _refuses(*arguments: Any) -> str:
    """Why csrc/cuda/rdfe_front.cu does not take these."""
    y, parameters = _given(*arguments)
    sizes = tuple(weight.shape[-1] for weight in parameters[: (len(parameters) - 6) // 4])
    if sizes != (3, 5, 7):
        return f"it is for branches of 3, 5 and 7 taps, not of {', '.join(map(str, sizes))}"
    c, hidden, n = y.shape[1], parameters[6].shape[0], y.shape[0]
    if 4 * c + 2 * hidden > 12288:
        return f"the unit's {4 * c} means and gradients and {hidden} hidden values are more than shared memory has"
    if y.numel() // n >= 2**30:
        return "an image has 2**30 elements or more"
    if n > 65535 or y.numel() // c > 2**31 - 1:
        return "there are more images or pixels than a grid has blocks"
    return ""


cuda_kernels("rdfe_front", about=_about, refuses=_refuses)
triton_kernels("rdfe_front", ("fwd", "bwd", "prepack"))
# Both depthwise convolutions of a branch have the kernel size of the first, and reduce_bias says what is hidden.
_take = arguments(
    "rdfe_front",
    image("y"),
    parameter("dw1_weights", "[C, 1, K[i], K[i]]", listed=True),
    parameter("dw1_biases", "[C]", listed=True),
    parameter("reduce_bias", "[hidden]"),
    parameter("reduce_weight", "[hidden, branches*C, 1, 1]"),
    parameter("expand_weight", "[C, hidden, 1, 1]"),
    parameter("expand_bias", "[C]"),
    parameter("dw2_weights", "[C, 1, K[i], K[i]]", listed=True),
    parameter("dw2_biases", "[C]", listed=True),
    parameter("fuse_weight", "[C, branches*C, 1, 1]"),
    parameter("fuse_bias", "[C]"),
    given=("K", "hidden", "branches"),
)


def rdfe_front(
    y: Tensor,
    dw1_weights: Sequence[Tensor],
    dw1_biases: Sequence[Tensor],
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    dw2_weights: Sequence[Tensor],
    dw2_biases: Sequence[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor,
    backend: str | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """z = fuse(cat DW2_k(f_k * a)) + y with f_k = DW_k(y), a = sigmoid(expand(relu(reduce(mean(cat f))))) (Eq. 7-10).

    Nothing but y and a few vectors is kept for backward: `a` follows from sums of y, and with `a` known the rest is
    linear and computed again row by row.

    Args:
        y: [N, C, H, W] of float32, float64, bfloat16 or float16, in any layout; channels_last is the fastest.
        dw1_weights, dw2_weights: one [C, 1, K, K] of odd K for each of B branches, the same K in both (3, 5, 7 in the
            network); the convolutions pad by K // 2 zeros.
        dw1_biases, dw2_biases: one [C] for each branch.
        reduce_weight, reduce_bias: [hidden, B*C, 1, 1] and [hidden].
        expand_weight, expand_bias: [C, hidden, 1, 1] and [C].
        fuse_weight, fuse_bias: [C, B*C, 1, 1] and [C].
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND, else "auto".
        packed: `rdfe_front_prepack` of these very depthwise weights and biases, to save its time where they do not
            change between calls; the result is the same. It is not used where it is of no use.

    All parameters are of y's dtype or float32.

    Returns:
        [N, C, H, W] of y's dtype, under autocast of autocast's; everything between is float32 (float64 for float64)
        whatever the dtype, but the "triton" and "cuda" backends keep f_k and gradients of images in y's dtype.
        channels_last if y's channels are neighbours in memory, contiguous otherwise.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        NotImplementedError: the gradient of a gradient is asked for and backend is not "reference".
    """
    _check_lists(dw1_weights=dw1_weights, dw1_biases=dw1_biases, dw2_weights=dw2_weights, dw2_biases=dw2_biases)
    branches, hidden = len(dw1_weights), (reduce_bias.numel() if isinstance(reduce_bias, Tensor) else 0)
    y, *_ = _take(
        y,
        dw1_weights,
        dw1_biases,
        reduce_bias,
        reduce_weight,
        expand_weight,
        expand_bias,
        dw2_weights,
        dw2_biases,
        fuse_weight,
        fuse_bias,
        K=odd_sizes(dw1_weights),
        hidden=hidden,
        branches=branches,
    )
    unit = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    parameters = [*dw1_weights, *dw1_biases, *unit, *dw2_weights, *dw2_biases, fuse_weight, fuse_bias]
    chosen = backends.choose("rdfe_front", y.device.type, backend, y.dtype)
    if chosen == "reference":
        return _reference(y, parameters, branches)
    _check_packed(packed, parameters, branches)
    return _call(y, parameters, packed, chosen)[0]


def rdfe_front_prepack(
    dw1_weights: Sequence[Tensor],
    dw1_biases: Sequence[Tensor],
    dw2_weights: Sequence[Tensor],
    dw2_biases: Sequence[Tensor],
) -> Tensor | None:
    """What `rdfe_front` makes of its depthwise parameters before it can use them, for its argument `packed`.

    It is a copy: whoever keeps it must make it anew when they change (their `data_ptr()`, `_version` or dtype).

    Args:
        dw1_weights, dw1_biases, dw2_weights, dw2_biases: as those of `rdfe_front`.

    Returns:
        On CUDA devices with Triton [2 * R, C], float32: R is the taps and biases of all branches, the second
        convolutions' are below the first ones'. None where the operator would not use it: elsewhere, and for float64.

    Raises:
        TypeError, ValueError: an argument is not a list of tensors, or they are not as many.
    """
    lists = {
        "dw1_weights": dw1_weights,
        "dw1_biases": dw1_biases,
        "dw2_weights": dw2_weights,
        "dw2_biases": dw2_biases,
    }
    for name, tensors in lists.items():
        if isinstance(tensors, (list, tuple)) and not all(isinstance(t, Tensor) for t in tensors):
            came = ", ".join(sorted({type(t).__name__ for t in tensors}))
            raise TypeError(f"rdfe_front: {name} must be a list of tensors, got {describe(tensors)} of {came}")
    _check_lists(**lists)
    first = dw1_weights[0]
    if not first.is_cuda or first.dtype == torch.float64 or triton_problem():
        return None
    if backends.choose("rdfe_front", first.device.type, None, first.dtype) == "reference":
        return None
    weights, biases = [*dw1_weights, *dw2_weights], [*dw1_biases, *dw2_biases]
    return torch.ops.aminet_fast.rdfe_front_prepack([w.detach() for w in weights], [b.detach() for b in biases])


def _packed_size(weights: Sequence[Tensor]) -> tuple[int, int]:
    """Of what rdfe_front_prepack makes of the weights of all depthwise convolutions: a row a tap and a bias."""
    return sum(weight.shape[-1] ** 2 + 1 for weight in weights), weights[0].shape[0]


def _check_packed(packed: Tensor | None, parameters: Sequence[Tensor], branches: int) -> None:
    if packed is None:
        return
    if not isinstance(packed, Tensor) or packed.dtype != torch.float32:
        raise TypeError(f"rdfe_front: packed must be a float32 tensor or None, got {describe(packed)}")
    size = _packed_size([*parameters[:branches], *parameters[:branches]])
    if packed.shape != size or packed.device != parameters[0].device or not packed.is_contiguous():
        wanted = f"rdfe_front_prepack of the depthwise parameters, {list(size)} on {parameters[0].device}"
        raise ValueError(f"rdfe_front: packed must be {wanted}, got {describe(packed)}")


def _check_lists(dw1_weights: Sequence[Tensor], **others: Sequence[Tensor]) -> None:
    """As many in each as there are branches, at least one."""
    for name, tensors in {"dw1_weights": dw1_weights, **others}.items():
        if not isinstance(tensors, (list, tuple)):
            raise TypeError(f"rdfe_front: {name} must be a list of tensors, got {describe(tensors)}")
        if not tensors or len(tensors) != len(dw1_weights):
            raise ValueError(
                "rdfe_front: dw1_weights, dw1_biases, dw2_weights and dw2_biases must have one entry for each branch "
                f"and at least one, got {len(dw1_weights)} dw1_weights and {len(tensors)} {name}"
            )


def _reference(y: Tensor, parameters: list[Tensor], branches: int) -> Tensor:
    """The reference, kept to this operator's promises on dtype and layout."""
    p, b = [parameter.to(y.dtype) for parameter in parameters], branches
    reduce_weight, reduce_bias, expand_weight, expand_bias = p[2 * b : 2 * b + 4]
    dw2_weights, dw2_biases = p[2 * b + 4 : 3 * b + 4], p[3 * b + 4 : -2]
    unit = (reduce_weight, reduce_bias, expand_weight, expand_bias)
    with plainly(y):
        z = rdfe_front_ref(y, p[:b], p[b : 2 * b], *unit, dw2_weights, dw2_biases, p[-2], p[-1])
    return laid_out(z, memory_format(y))


@torch.library.register_fake("aminet_fast::rdfe_front_fwd", lib=library)
def _forward_fake(
    y: Tensor, parameters: list[Tensor], packed: Tensor | None = None, backend: str = "auto"
) -> tuple[Tensor, Tensor, Tensor]:
    branches = (len(parameters) - 6) // 4
    torch._check(branches > 0 and len(parameters) % 4 == 2)
    n, c, _, _ = y.shape
    size = max(weight.shape[-1] for weight in parameters[:branches])
    accumulated = torch.float64 if y.dtype == torch.float64 else torch.float32
    z = empty_as(y)
    return z, y.new_empty((n, c), dtype=accumulated), y.new_empty((n, size, size, c), dtype=accumulated)


@torch.library.register_fake("aminet_fast::rdfe_front_prepack", lib=library)
def _prepack_fake(weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    torch._check(len(weights) == len(biases))
    return weights[0].new_empty(_packed_size(weights), dtype=torch.float32)


@torch.library.register_fake("aminet_fast::rdfe_front_bwd", lib=library)
def _backward_fake(
    dz: Tensor,
    y: Tensor,
    a: Tensor,
    sums: Tensor,
    parameters: list[Tensor],
    need_y: bool,
    need_parameters: bool,
    backend: str = "auto",
) -> tuple[Tensor, list[Tensor]]:
    torch._check(dz.shape == y.shape)
    dy = empty_as(y) if need_y else y.new_empty((0,))
    return dy, [p.new_empty(p.shape) for p in parameters] if need_parameters else []


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    y, parameters, _, ctx.backend = inputs
    _, a, sums = output
    ctx.mark_non_differentiable(a, sums)
    ctx.set_materialize_grads(False)  # no zeros for what has no gradient
    ctx.save_for_backward(y, a, sums, *parameters)


def _backward(
    ctx: Any, needs: Needs, dz: Tensor, _a: Tensor, _sums: Tensor
) -> tuple[Tensor | None, list[Tensor | None], None, None]:
    y, a, sums, *parameters = ctx.saved_tensors
    need_y, of_parameters, *_ = needs
    wanted: list[Tensor | None] = [None] * len(parameters)
    if not need_y and not any(of_parameters):
        return None, wanted, None, None
    dy, gradients = torch.ops.aminet_fast.rdfe_front_bwd(
        dz, y, a, sums, parameters, need_y, any(of_parameters), ctx.backend
    )
    if any(of_parameters):
        wanted = [g if need else None for g, need in zip(gradients, of_parameters, strict=True)]
    return dy if need_y else None, wanted, None, None


autocasts("rdfe_front", "y")
_call = differentiable("rdfe_front", _setup_context, _backward)
