"""16-bit copies of float32 parameters for a whole forward pass under autocast, by one launch instead of one for each.

Autocast copies a weight where it meets it and its gradient back one by one; for the weights and biases of the few
convolutions that torch itself computes these are some fifty launches a step. The leaves stay the float32 parameters, so
optimizers, gradient hooks (DDP's too) and gradient scalers see what they always see.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..ops._transforms import unseen

# Where it pays: on the CPU a launch costs nothing.
DEVICES = {"cuda"}
# Of another class (DTensor, a quantised weight) only itself knows what a copy is.
PLAIN = {nn.Parameter, FakeTensor}


class _Copies(torch.autograd.Function):
    """Each tensor's copy in a dtype, in its layout; gradients come back in the tensors' own dtype."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *sources: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        copies = _all_to(sources, dtype)
        ctx.mark_non_differentiable(*(c for c, s in zip(copies, sources, strict=True) if not s.requires_grad))
        return tuple(copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        wide = iter(_all_to([g for g in gradients if g is not None], torch.float32))
        return None, *(None if g is None else next(wide) for g in gradients)


def _all_to(tensors: Iterable[Tensor], dtype: torch.dtype) -> list[Tensor]:
    tensors = list(tensors)
    if torch.is_grad_enabled():  # a gradient that is to be differentiated again
        return [t.to(dtype) for t in tensors]
    copies = [torch.empty_like(t, dtype=dtype) for t in tensors]
    if copies:
        torch._foreach_copy_(copies, tensors)
    return copies


class _Scope(threading.local):
    """What this thread's forward pass has copied, by the parameter's id; other threads' passes have their own."""

    copies: dict[int, Tensor] | None = None


_scope = _Scope()


def autocast_copies(parameters: Iterable[Tensor | None], x: Tensor) -> dict[int, Tensor] | None:
    """Copies in autocast's dtype of all plain float32 parameters beside x, for `using`; None: autocast does it itself.

    It does where it is off or not of 16 bits, on devices where nothing is won, and where somebody looks on:
    torch.compile, export, and whoever would not see an operator.
    """
    device = x.device.type
    if torch.compiler.is_compiling() or device not in DEVICES or not torch.is_autocast_enabled(device):
        return None
    if unseen():
        return None
    dtype = torch.get_autocast_dtype(device)
    if dtype not in (torch.bfloat16, torch.float16):
        return None
    given = [p for p in parameters if p is not None and type(p) in PLAIN]
    plain = [p for p in given if p.dtype == torch.float32 and p.device == x.device]
    return dict(zip(map(id, plain), _Copies.apply(dtype, *plain), strict=True)) if plain else None


@contextmanager
def using(copies: dict[int, Tensor]) -> Iterator[None]:
    """`copy_of` finds these inside."""
    before, _scope.copies = _scope.copies, copies
    try:
        yield
    finally:
        _scope.copies = before


def copy_of(parameter: Tensor | None) -> Tensor | None:
    """The parameter's copy in this forward pass, or itself: also where autocast is off or of another dtype by now."""
    if torch.compiler.is_compiling() or _scope.copies is None or parameter is None:
        return parameter
    copy, device = _scope.copies.get(id(parameter)), parameter.device.type
    if copy is None or not torch.is_autocast_enabled(device) or torch.get_autocast_dtype(device) != copy.dtype:
        return parameter
    return copy
