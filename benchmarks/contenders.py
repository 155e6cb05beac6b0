"""The four that are compared: plain PyTorch, torch.compile of it, this package, and torch.compile of that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._functorch.config as functorch_config
from torch import Tensor

from aminet_fast.ops import backends

from . import parity, timing
from .cases import BACKWARD, FORWARD, Arguments, Case, Draw, Group, as_tuple, leaves, mapped

KINDS = ("eager", "compiled", "ours", "ours+compiled")
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Contender:
    kind: str
    layout: str

    @property
    def compiled(self) -> bool:
        return self.kind.endswith("compiled")

    def __str__(self) -> str:
        return f"{self.kind}-{self.layout}"


class NotThereError(Exception):
    """A contender that this machine or this version does not have; the message says why."""


@dataclass
class Ready:
    """A contender that gave the right numbers: `sample` runs it once and returns seconds."""

    sample: Callable[[], float]
    error: float
    notes: dict[str, Any] = field(default_factory=dict)


def laid_out(arguments: Arguments, dtype: torch.dtype, layout: str) -> Arguments:
    """Images and convolutions' weights in that layout; every tensor of that dtype, and a leaf."""

    def change(t: Tensor) -> Tensor:
        t = t.to(dtype)
        t = t.contiguous(memory_format=LAYOUTS[layout]) if t.dim() == 4 else t
        return t.detach().clone(memory_format=torch.preserve_format).requires_grad_()

    return mapped(arguments, change)


def function_of(case: Case, contender: Contender, device: torch.device) -> Callable[..., Any]:
    """What the contender calls. Raises NotThereError."""
    if problem := case.problem():
        raise NotThereError(problem)
    ours, reference = case.ours(), case.reference()
    assert ours is not None
    assert reference is not None
    if contender.kind.startswith("ours"):
        choice = backends.explain(case.public_name, device.type)
        if choice.backend == "reference":
            raise NotThereError(choice.reason)
    function = ours if contender.kind.startswith("ours") else reference
    return torch.compile(function, dynamic=False) if contender.compiled else function


class OperatorGroup:
    """One operator at one size: its inputs, its float64 answer, and contenders made ready on demand."""

    def __init__(self, case: Case, group: Group, device: torch.device) -> None:
        if problem := case.problem():
            raise NotThereError(problem)
        torch._dynamo.reset()
        # A compiled backward reuses what forward saved, unless it is told that it will run again.
        functorch_config.donated_buffer = group.what != BACKWARD
        self.case, self.group, self.device = case, group, device
        self.dtype = getattr(torch, group.dtype)
        drawn = case.make(Draw(device), group.batch, group.channels, group.side)
        self.drawn = mapped(drawn, lambda t: t.to(self.dtype))  # rounded once, the oracle's too
        oracle = laid_out(self.drawn, torch.float64, "nchw")
        outputs = as_tuple(case.reference()(*oracle.values()))  # type: ignore[misc]
        self.mask: Tensor | float = 1.0
        if case.settled is not None:
            with torch.no_grad():
                self.mask = case.settled(*oracle.values()) > parity.MARGIN[group.dtype]
        draw = Draw(device, seed=1)
        self.grads = [draw(*o.shape).to(self.dtype) * self.mask for o in outputs]
        wanted = torch.autograd.grad(outputs, leaves(oracle), [g.double() for g in self.grads])
        self.wanted = [t.detach() for t in (*outputs, *wanted)]

    def prepare(self, contender: Contender) -> Ready:
        """Raises NotThereError, WrongNumbersError, and what the contender itself raises."""
        function = function_of(self.case, contender, self.device)
        arguments = laid_out(self.drawn, self.dtype, contender.layout)
        inputs = leaves(arguments)

        def forward() -> tuple[Tensor, ...]:
            return as_tuple(function(*arguments.values()))

        outputs = forward()
        grads = [g.to(o.dtype).contiguous() for g, o in zip(self.grads, outputs, strict=True)]
        grads = [torch.empty_like(o).copy_(g) for g, o in zip(grads, outputs, strict=True)]
        found = parity.worst([*outputs, *torch.autograd.grad(outputs, inputs, grads)], self.wanted)
        most = parity.most(self.device.type, self.group.dtype, plain=not contender.kind.startswith("ours"))
        parity.require(f"{self.group}: {contender}", found, most)
        run = pass_of(self.group.what, forward, inputs, grads)
        if self.device.type == "cpu":
            return Ready(timing.on_host(run), found)
        notes = {"graph": False}
        if self.group.what != BACKWARD:  # its forward ran outside of the graph
            with suppress(RuntimeError):
                run, notes = timing.graphed(run), {"graph": True}
        return Ready(timing.on_device(run), found, notes)


def pass_of(
    what: str, forward: Callable[[], tuple[Tensor, ...]], inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> Callable[[], object]:
    """What is timed: forward without gradients, backward alone, or both."""
    if what == FORWARD:
        return torch.no_grad()(forward)
    if what == BACKWARD:
        outputs = forward()
        return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)
    return lambda: torch.autograd.grad(forward(), inputs, grads)
