"""What is timed: one `Case` an operator, registered by its bench_<operator>.py, at the network's four sizes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aminet_fast import ops

SIZES = ((24, 128), (48, 64), (96, 32), (192, 16))  # channels, side
FORWARD, BACKWARD, BOTH = "forward", "backward", "forward+backward"
INFERENCE, STEP = "inference", "training step"
# Arguments by name, in the order of the public function: a tensor, a list of tensors, or a number.
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """What is compared: contenders of one group take turns in one measurement."""

    case: str
    what: str
    dtype: str
    channels: int
    side: int
    batch: int

    @property
    def size(self) -> str:
        return f"{self.channels}@{self.side}"

    def __str__(self) -> str:
        return f"{self.case} {self.what} {self.size} {self.dtype} batch {self.batch}"


class Draw:
    """Seeded float32 tensors on a device."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, *size: int, fan_in: int = 1) -> Tensor:
        """Normal, of variance 1 / fan_in."""
        return torch.randn(size, device=self.device, generator=self.generator) / fan_in**0.5

    def convolutions(self, c_out: int, c_in: int, kernels: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
        """Weights [c_out, c_in, k, k] and biases [c_out] of one convolution for each k."""
        weights = [self(c_out, c_in, k, k, fan_in=c_in * k * k) for k in kernels]
        return weights, [self(c_out) for _ in kernels]


@dataclass(frozen=True)
class Case:
    """An operator to be timed against ``<operator>_ref`` of aminet_fast.reference.

    Args:
        name: Of the case, and of ``aminet_fast.ops.<operator>`` unless `operator` says otherwise.
        make: (draw, batch, channels, side) -> its arguments.
        images: Fewest [N, C, H, W] images that forward, backward and both must read and write, or C -> that number.
        macs: channels -> multiplications with addition a pixel, forward.
        settled: (float64 arguments) -> [N, 1, H, W], how far values are from another branch of the function; gradients
            are compared where that is far, because rounding may take the other branch.
    """

    name: str
    make: Callable[[Draw, int, int, int], Arguments]
    images: Mapping[str, float | Callable[[int], float]]
    macs: Callable[[int], float]
    whats: tuple[str, ...] = (FORWARD, BOTH)
    settled: Callable[..., Tensor] | None = None
    operator: str = field(default="")

    @property
    def public_name(self) -> str:
        return self.operator or self.name

    def ours(self) -> Callable[..., Any] | None:
        """The public function, None where this version has none."""
        return getattr(importlib.import_module("aminet_fast.ops"), self.public_name, None)

    def reference(self) -> Callable[..., Any] | None:
        """The plain PyTorch function, None where this version has none."""
        return find_reference(f"{self.public_name}_ref")

    def problem(self) -> str:
        """Why there is nothing to compare; "" when there is."""
        if self.ours() is None:
            return f"aminet_fast.ops has no {self.public_name} in this version"
        if self.reference() is None:
            return f"aminet_fast.reference has no {self.public_name}_ref in this version"
        return ""

    def bytes(self, group: Group) -> float:
        width = torch.finfo(getattr(torch, group.dtype)).bits // 8
        images = self.images[group.what]
        images = images(group.channels) if callable(images) else images
        return images * group.batch * group.channels * group.side**2 * width

    def flops(self, group: Group) -> float:
        """Of the plain computation, so that rates of what does less compare with it; backward is twice forward."""
        times = {FORWARD: 1, BACKWARD: 2, BOTH: 3}[group.what]
        return 2 * times * self.macs(group.channels) * group.batch * group.side**2


def find_reference(name: str) -> Callable[..., Any] | None:
    """A function of one of aminet_fast.reference's modules."""
    package = importlib.import_module("aminet_fast.reference")
    for module in pkgutil.iter_modules(package.__path__):
        found = getattr(importlib.import_module(f"{package.__name__}.{module.name}"), name, None)
        if found is not None:
            return found
    return None


def all_cases() -> list[Case]:
    """What the operators' files beside this one register; none of them needs pytest."""
    names = sorted(f"bench_{operator}" for operator in ops.__all__)
    there = [name for name in names if Path(__file__).with_name(f"{name}.py").exists()]
    modules = [importlib.import_module(f"benchmarks.{name}") for name in there]
    return [case for module in modules for case in getattr(module, "CASES", ())]


def operator_benchmark(*cases: Case) -> Callable[..., None]:
    """A test function that conftest.py parametrises with these cases' trials."""

    def bench(trial: Any, record: Callable[[Any], None]) -> None:
        record(trial)

    bench.cases = cases  # type: ignore[attr-defined]
    return bench


def mapped(arguments: Arguments, function: Callable[[Tensor], Tensor]) -> Arguments:
    """The same arguments with every tensor changed."""

    def change(value: Any) -> Any:
        if isinstance(value, Tensor):
            return function(value)
        return [function(t) for t in value] if isinstance(value, list) else value

    return {name: change(value) for name, value in arguments.items()}


def leaves(arguments: Arguments) -> list[Tensor]:
    """All tensors, in order."""
    nested = [value if isinstance(value, list) else [value] for value in arguments.values()]
    return [t for values in nested for t in values if isinstance(t, Tensor)]


def as_tuple(outputs: Any) -> tuple[Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)
