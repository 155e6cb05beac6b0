"""What the Triton kernels of an operator are tried with: `Case`, listed by tests/harness/triton/cases_<operator>.py."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# The sizes that the network has its operators work at: channels, side; a batch of the training protocol.
NETWORK = ((24, 128), (48, 64), (96, 32), (192, 16))
BATCH = 32
Arguments = dict[str, Any]


@contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """While it runs, torch allows TF32 in products of float32 on CUDA devices, or does not."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32 = before


class Draw:
    """Normal numbers for arguments; the same ones for every dtype, rounded to it.

    What `draw` gives asks for a gradient unless told otherwise, and so does what a case computes from it. Where a
    case asks for BATCH images, `batch` are drawn.
    """

    def __init__(
        self, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0, batch: int = BATCH
    ) -> None:
        self.dtype, self.device, self.batch = dtype, torch.device(device), batch
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(
        self,
        *shape: int,
        grad: bool = True,
        dtype: torch.dtype | None = None,
        contiguous: bool = False,
        fan_in: int = 1,
    ) -> Tensor:
        """A tensor of variance 1 / fan_in; channels_last where it has four dimensions and channels, or contiguous."""
        if len(shape) == 4 and shape[0] == BATCH:
            shape = (self.batch, *shape[1:])
        drawn = torch.randn(shape, generator=self.generator, dtype=torch.float64) / fan_in**0.5
        drawn = drawn.to(self.device, dtype or self.dtype)
        if len(shape) == 4 and shape[1] > 1 and not contiguous:
            drawn = drawn.contiguous(memory_format=torch.channels_last)
        return drawn.requires_grad_(grad)


@dataclass(frozen=True)
class Case:
    """Arguments of one call.

    Args:
        operator: ``aminet_fast.ops.<operator>`` is called with them, forward and backward.
        name: Of the case, among the operator's.
        arguments: draw -> keyword arguments; must not look at the numbers (compiling has none).
        interpret, compile: what it is for; ``compile_only`` is another word for interpret=False.
        network: It is one of the network's own sizes at batch 32: compiled only.
        gradient: Layout of the gradients that come in: "like" the outputs, "contiguous", or "expanded" from one number.
        settled: (the arguments in float64, by name) -> a tensor [N, 1, H, W], how far values are from another branch of
            the function: gradients are compared where that is far, because rounding may take the other branch.
        loosen: Factor on the tolerances, with a reason beside it.
        one_block: {name of a kernel: why one block on a multiprocessor at a time is enough}; two must fit without it.
        dtypes: Those of float32, bfloat16 and float16 that it is for.
        tf32: Products of float32 may be in TF32; its rows of tests/tolerances.py are for it.
    """

    operator: str
    name: str
    arguments: Callable[[Draw], Arguments]
    interpret: bool = True
    compile: bool = True
    compile_only: bool = False
    network: bool = False
    gradient: str = "like"
    settled: Callable[..., Tensor] | None = None
    loosen: float = 1.0
    one_block: dict[str, str] = field(default_factory=dict)
    dtypes: tuple[torch.dtype, ...] = DTYPES
    tf32: bool = False

    @property
    def interpreted(self) -> bool:
        return self.interpret and not self.compile_only and not self.network

    def __str__(self) -> str:
        return f"{self.operator}-{self.name}"

    def make(self, draw: Draw) -> Arguments:
        """The arguments, their tensors leaves of the graph to come.

        Of the network's sizes they are as a training step under autocast gives them: parameters in float32.
        """

        def leaf(t: Tensor) -> Tensor:
            wide = self.network and t.is_floating_point() and not is_image(t)
            return (t.detach().float() if wide else t.detach()).requires_grad_(t.requires_grad)

        return mapped(self.arguments(draw), leaf)


def is_image(t: Tensor) -> bool:
    """[N, C, H, W] of more pixels than a weight has taps."""
    return t.dim() == 4 and t.shape[2] * t.shape[3] >= 64


def operators() -> list[str]:
    """Operators that have a file of cases."""
    return sorted(path.stem.removeprefix("cases_") for path in Path(__file__).parent.glob("cases_*.py"))


def cases_of(operator: str) -> list[Case]:
    """Its cases."""
    cases: list[Case] = importlib.import_module(f"{__package__}.cases_{operator}").CASES
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), f"two cases of {operator} have one name: {names}"
    return cases


def first_case(operator: str) -> Case:
    """The first one that is interpreted, which the fast tests take."""
    return next(case for case in cases_of(operator) if case.interpreted)


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same dicts and lists with every tensor changed."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {name: mapped(member, function) for name, member in value.items()}
    return type(value)(mapped(member, function) for member in value) if isinstance(value, (list, tuple)) else value


def tensors(value: Any) -> list[Tensor]:
    """All tensors in dicts and lists, in order."""
    found: list[Tensor] = []
    mapped(value, lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return found
