"""What does not see the operators: forward-mode AD, functorch's transforms (grad, jvp, vmap, ...), torch.jit.trace.

The rule: under any of them the plain form runs, whose numbers are the reference's. `backends.choose` keeps it, so that
no operator and no module has to. Two ways lead to an operator all the same, and are settled here: a backward pass that
vmap runs (is_grads_batched) after a forward that it did not, and a program, exported or compiled, that holds the
operators already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.eval_frame import skip_code
from torch.autograd import forward_ad
from torch.utils import _pytree as pytree


def unseen() -> bool:
    """Whether somebody follows this thread's computation who would lose its track at an operator."""
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._get_tracing_state() is not None
    )


skip_code(unseen.__code__)  # or torch.compile, after a graph break, would compile it by itself and keep what it said


def inside_vmap(t: Tensor) -> bool:
    """Whether vmap may have hidden a dimension of t or of its tangent."""
    if torch._C._are_functorch_transforms_active():
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._functorch.is_legacy_batchedtensor(t)


def takes_vmap(library: torch.library.Library, name: str) -> None:
    """Let vmap have the operator: a call for each slice."""
    operator = getattr(getattr(torch.ops, library.ns), name).default

    def rule(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        outputs = _one_by_one(operator, inputs, pytree.tree_leaves(in_dims), info.batch_size)
        return outputs, pytree.tree_map(lambda _: 0, outputs)

    def older(*inputs: Any) -> Any:
        """For the vmap before functorch's, which is_grads_batched still is; its tensors are of one level."""
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        dims: list[int | None] = []

        def unwrapped(x: Any) -> Any:
            dims.append(0 if isinstance(x, Tensor) and torch._C._functorch.is_legacy_batchedtensor(x) else None)
            return x if dims[-1] is None else torch._remove_batch_dim(x, level, 1, 0)

        plain = pytree.tree_map(unwrapped, inputs)
        sizes = {x.shape[0] for x, dim in zip(pytree.tree_leaves(plain), dims, strict=True) if dim is not None}
        outputs = _one_by_one(operator, plain, dims, *sizes)
        return pytree.tree_map(lambda y: torch._add_batch_dim(y, 0, level), outputs)

    torch.library.register_vmap(operator.name(), rule, lib=library)
    library.impl(name, older, "Batched")


def _one_by_one(operator: Callable[..., Any], inputs: Any, dims: Sequence[int | None], size: int) -> Any:
    """The outputs for all slices, stacked; dims: of each value in `inputs`, None for what all slices share."""
    values, spec = pytree.tree_flatten(inputs)

    def call(i: int) -> Any:
        # Of no slices the shape of one is wanted: their sum has it.
        part = (lambda t, dim: t.select(dim, i)) if size else torch.sum
        given = [x if dim is None else part(x, dim) for x, dim in zip(values, dims, strict=True)]
        return operator(*pytree.tree_unflatten(given, spec))

    found = [pytree.tree_flatten(call(i)) for i in range(max(size, 1))]
    of_output = zip(*(tensors for tensors, _ in found), strict=True)
    return pytree.tree_unflatten([torch.stack(tensors)[:size] for tensors in of_output], found[0][1])


class Refusing(torch.library.Library):
    """A library whose autograd kernels refuse a derivative that they would drop, or not find.

    Those of torch.library.register_autograd know reverse mode alone: they let tangents fall without a word, and
    functorch's grad meets messages about their inside.
    """

    def impl(self, op_name: Any, fn: Any, dispatch_key: str = "", **options: Any) -> None:
        """As of any library."""
        if dispatch_key != "Autograd":
            super().impl(op_name, fn, dispatch_key, **options)
            return

        def kernel(keyset: Any, *inputs: Any, **named: Any) -> Any:
            if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
                _refuse(op_name, [t for t in pytree.tree_leaves(inputs) if isinstance(t, Tensor)])
            return fn(keyset, *inputs, **named)

        super().impl(op_name, kernel, dispatch_key, **options)


def _refuse(operator: str, tensors: list[Tensor]) -> None:
    """Raises where a tangent, or a transform's gradient, is asked for."""
    dual = forward_ad._current_level >= 0 and any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
    followed = torch._C._are_functorch_transforms_active() and torch.is_grad_enabled()
    if dual or (followed and any(t.requires_grad for t in tensors)):
        raise NotImplementedError(
            f"{operator} has no forward-mode derivative and no functorch gradient in a compiled or exported program;"
            " call the model uncompiled, or export it with backend='reference'"
        )
