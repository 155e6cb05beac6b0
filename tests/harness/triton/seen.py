"""Every tensor that a step on fake CUDA tensors meets, in torch's own functions and in launches; compiles nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from .case import tensors
from .launches import Driver
from .routing import kernel_of

VIEWS = ("detach", "view", "_unsafe_view", "permute", "t", "transpose", "expand", "slice", "select", "unbind", "split")


@dataclass(frozen=True)
class Call:
    """A launch, or one of torch's functions."""

    operator: str  # of ours, that it is part of; "" outside of all
    name: str
    given: tuple[Tensor, ...]
    made: tuple[Tensor, ...]

    @property
    def cast_bytes(self) -> int:
        """What is read and written by a change of dtype, 0 for everything else."""
        if self.name not in ("_to_copy", "copy_") or len({t.dtype for t in (*self.given, *self.made)}) < 2:
            return 0
        read = self.given if self.name == "_to_copy" else self.given[1:]
        return sum(t.numel() * t.element_size() for t in (*read, *self.made))


class Seen(TorchDispatchMode):
    """Runs the Triton functions of the operators, as routing.py does, and lists all calls inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.operator = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        space, _, name = func._schema.name.partition("::")
        function = kernel_of(func._schema.name)[1] if space == "aminet_fast" else None
        given = [*args, *(kwargs or {}).values()]
        if function is None:
            found = func(*args, **(kwargs or {}))
            if name not in VIEWS:
                self.calls.append(Call(self.operator, name, _all(given), _all([found])))
            return found
        assert not kwargs
        if len(given) == len(func._schema.arguments) and func._schema.arguments[-1].name == "backend":
            given.pop()
        before, self.operator = self.operator, name
        try:
            with self, self._launches():
                return function(*given)
        finally:
            self.operator = before

    @contextmanager
    def _launches(self) -> Iterator[None]:
        kept = JITFunction.run, Autotuner.run, driver._active

        def launched(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
            self.calls.append(Call(self.operator, kernel.__name__, _all([*args, *kwargs.values()]), ()))

        def first(tuner: Any, *args: Any, **kwargs: Any) -> None:
            tuner.fn.run(*args, **kwargs, **tuner.configs[0].all_kwargs())

        JITFunction.run, Autotuner.run = launched, first
        driver.set_active(Driver(90))
        try:
            yield
        finally:
            JITFunction.run, Autotuner.run, driver._active = kept


def _all(values: list[Any]) -> tuple[Tensor, ...]:
    return tuple(t for t in tensors(values) if isinstance(t, torch.Tensor))
