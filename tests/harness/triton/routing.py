"""Sends operators to their Triton kernels where there is no CUDA device to do so: fake tensors, and the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aminet_fast import ops
from aminet_fast.ops import backends
from aminet_fast.ops.extension import kernels

from .case import tensors

assert ops.__all__  # importing them registered their backends and kernels


def kernel_of(name: str) -> tuple[str, Callable[..., Any] | None]:
    """(operator, its function in kernels/) of "aminet_fast::<operator>_<suffix>"; None where it has none."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"):
        return "", None
    bare = name.removeprefix("aminet_fast::")
    operator = max((o for o in backends.operators() if bare.startswith(f"{o}_")), key=len)
    return operator, getattr(kernels(operator), bare)


class Routed(TorchDispatchMode):
    """Runs the Triton functions of all operators that have them, whatever device their tensors are on.

    seen(name, outputs, wanted) is told what each gave, and with `fakes` what the operator's fake kernel gives; enter
    it inside FakeTensorMode for that.
    """

    def __init__(self, fakes: bool = False) -> None:
        super().__init__()
        self.fakes = fakes
        self.ran: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        function = kernel_of(name)[1] if name.startswith("aminet_fast::") else None
        if function is None:
            return func(*args, **(kwargs or {}))
        given = [*args, *(kwargs or {}).values()]
        if kwargs:
            given = [kwargs.get(a.name, a.default_value) for a in func._schema.arguments[len(args) :]]
            given = [*args, *given]
        if len(given) == len(func._schema.arguments) and func._schema.arguments[-1].name == "backend":
            given.pop()  # it is for the choice among kernels, which is made here
        found = function(*given)
        self.ran.append(name)
        if self.fakes:
            compare(name, found, func(*args, **(kwargs or {})))
        return found


def compare(name: str, found: Any, wanted: Any) -> None:
    """That what came has the dtypes, shapes and layouts that the operator's fake kernel promises."""
    given, promised = described(found), described(wanted)
    assert given == promised, f"{name} gives {given} where its fake kernel promises {promised}"


def described(outputs: Any) -> list[tuple[Any, ...]]:
    """Strides only of what is longer than one: the others mean nothing."""
    members = tensors(list(outputs) if isinstance(outputs, (list, tuple)) else [outputs])
    return [(t.dtype, t.device.type, tuple(t.shape), _strides(t)) for t in members]


def _strides(t: torch.Tensor) -> tuple[int, ...]:
    return tuple(stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1) if t.numel() else ()
