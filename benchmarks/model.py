"""The network's contenders: inference, and a training step (forward, L1, backward, Adam)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

import torch
from torch import Tensor, nn

from aminet_fast import AMINet, freeze, reference

from . import memory, parity, timing
from .cases import INFERENCE, Group
from .contenders import LAYOUTS, Contender, NotThereError, Ready

MACS = 13.3e9  # of a forward pass at 128x128 (tests/reference/test_reference.py)
FULL_SIDE = 128
# Errors of a whole network grow with its depth, so plain PyTorch in the same dtype sets the scale.
EAGER_MOST = {"float32": 5e-2, "bfloat16": 0.7, "float16": 0.5}
TIMES_EAGER, FLOOR = 2.0, 1e-5
PARITY_IMAGES = 2


def build(kind: str, layout: str, device: torch.device) -> nn.Module:
    """The same weights for every contender, in training mode. Raises NotThereError."""
    plain = kind in ("eager", "compiled")
    if not plain and "backend" not in inspect.signature(AMINet.__init__).parameters:
        raise NotThereError("AMINet has no fast modules in this version")
    torch.manual_seed(0)
    model = reference.AMINet() if plain else AMINet()
    return model.to(device).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]


def autocast(device: torch.device, dtype: str) -> AbstractContextManager[object]:
    """Nothing for float32."""
    return nullcontext() if dtype == "float32" else torch.autocast(device.type, getattr(torch, dtype))


def make_step(
    model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor, target: Tensor, dtype: str
) -> Callable[[], None]:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.99), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(x.device, dtype):
            y = forward(x)
        (y.float() - target).abs().mean().backward()
        optimizer.step()

    return step


def outcome(forward: Callable[[Tensor], Tensor], model: nn.Module, x: Tensor, target: Tensor | None) -> list[Tensor]:
    """What parity is about: the pictures or, of a training step, the gradients."""
    if target is None:
        with torch.no_grad():
            return [forward(x)]
    y = forward(x)
    return list(torch.autograd.grad((y - target).abs().mean(), list(model.parameters())))


class ModelGroup:
    """The network at one batch size: its input, the float64 answer, and contenders made ready on demand."""

    def __init__(self, group: Group, device: torch.device) -> None:
        torch._dynamo.reset()
        self.group, self.device = group, device
        generator = torch.Generator().manual_seed(1)
        shape = (group.batch, 3, group.side, group.side)
        x, target = (torch.rand(shape, generator=generator).mul(2).sub(1).to(device) for _ in range(2))
        self.inference = group.what == INFERENCE
        self.x, self.target = x, None if self.inference else target
        self._wanted: dict[int, list[Tensor]] = {}
        self.eager_error = 0.0

    def prepare(self, contender: Contender) -> Ready:
        """Raises NotThereError, WrongNumbersError, and what the contender itself raises."""
        model = build(contender.kind, contender.layout, self.device).train(not self.inference)
        if self.inference and self.group.dtype != "float32":
            model = model.to(getattr(torch, self.group.dtype))
        if self.inference and contender.kind.startswith("ours"):
            freeze(model)
        forward = torch.compile(model, dynamic=False) if contender.compiled else model
        x = self.x.contiguous(memory_format=LAYOUTS[contender.layout])
        found = self.check(contender, model, forward, x)
        if self.inference:
            return self._inference(contender, forward, x, found)
        assert self.target is not None
        step = make_step(model, forward, x, self.target, self.group.dtype)
        step()
        return Ready(timing.on_host(step), found, self._memory(contender, model, step))

    def wanted(self, images: int) -> list[Tensor]:
        """The float64 answer for the first images."""
        if images not in self._wanted:
            oracle = build("eager", "nchw", self.device).double().train(not self.inference)
            target = None if self.target is None else self.target[:images].double()
            self._wanted[images] = [t.detach() for t in outcome(oracle, oracle, self.x[:images].double(), target)]
        return self._wanted[images]

    def check(self, contender: Contender, model: nn.Module, forward: Callable[[Tensor], Tensor], x: Tensor) -> float:
        # float64 is slow; but what was compiled must see the shape that it will be timed with.
        images = self.group.batch if contender.compiled else min(self.group.batch, PARITY_IMAGES)
        wanted = self.wanted(images)
        target = None if self.target is None else self.target[:images]
        if self.inference:
            x = x.to(next(model.parameters()).dtype)
        with nullcontext() if self.inference else autocast(self.device, self.group.dtype):
            found = outcome(forward, model, x[:images], target)
        error = parity.together(found, wanted)
        most = EAGER_MOST[self.group.dtype]
        if contender.kind == "eager":
            self.eager_error = max(self.eager_error, error)
        elif self.eager_error:
            most = min(most, TIMES_EAGER * self.eager_error + FLOOR)
        return parity.require(f"{self.group}: {contender}", error, most)

    def _inference(self, contender: Contender, forward: Callable[[Tensor], Tensor], x: Tensor, found: float) -> Ready:
        if self.group.dtype != "float32":
            x = x.to(getattr(torch, self.group.dtype))
        run: Callable[[], object] = torch.no_grad()(lambda: forward(x))
        notes = {}
        # A CUDA graph is what compiled code is served with; eager PyTorch is timed as it comes.
        if self.device.type == "cuda" and contender.kind != "eager":
            notes = {"graph": False}
            with suppress(RuntimeError):
                run, notes = timing.graphed(run), {"graph": True}
        return Ready(timing.on_host(run), found, notes)

    def _memory(self, contender: Contender, model: nn.Module, step: Callable[[], None]) -> dict[str, object]:
        if self.device.type == "cuda":
            return memory.on_cuda(model, step)
        if contender.compiled:
            return {}  # a fresh process would compile for minutes, and no budget asks
        return memory.in_child(contender.kind, contender.layout, self.group.batch, self.group.side, self.group.dtype)


def flops(group: Group) -> float:
    times = 1 if group.what == INFERENCE else 3
    return 2 * times * MACS * group.batch * (group.side / FULL_SIDE) ** 2
