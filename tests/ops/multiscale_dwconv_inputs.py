"""Inputs of multiscale_dwconv, and its check against the reference in float64; shared by the tests of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import multiscale_dwconv
from aminet_fast.ops.extension import load
from aminet_fast.reference.rdfe import multiscale_dwconv_ref
from tests.harness.layouts import laid_out
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
# Maps smaller than the kernels, odd and prime ones, several chunks of rows, several blocks of channels, the network's.
SHAPES = [(1, 1, 1, 1), (3, 7, 11, 13), (2, 24, 33, 17), (1, 5, 3, 67), (1, 48, 2, 8), (2, 101, 5, 4), (1, 192, 4, 16)]
RDFE = (3, 5, 7)


@dataclass
class Case:
    """Arguments of one call, and the gradient of its outputs."""

    x: list[Tensor]
    weights: list[Tensor]
    biases: list[Tensor | None]
    scale: Tensor | None
    dy: list[Tensor]

    def call(self, backend: str | None = "cpu") -> tuple[Tensor, ...]:
        x = self.x[0] if len(self.x) == 1 else self.x
        return multiscale_dwconv(x, self.weights, self.biases, self.scale, backend)

    def reference(self) -> tuple[Tensor, ...]:
        return multiscale_dwconv_ref(self.x if len(self.x) > 1 else self.x[0], self.weights, self.biases, self.scale)

    def leaves(self) -> list[Tensor]:
        return [t for t in (*self.x, *self.weights, *self.biases, self.scale) if t is not None]

    def names(self) -> list[str]:
        lists = {"x": self.x, "weights": self.weights, "biases": self.biases, "scale": [self.scale]}
        return [f"{name}[{i}]" for name, of in lists.items() for i, t in enumerate(of) if t is not None]

    def to(self, dtype: torch.dtype) -> Case:
        """Detached, in that dtype, all needing gradients."""

        def leaf(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.detach().to(dtype).requires_grad_()

        lists = ([leaf(t) for t in of] for of in (self.x, self.weights, self.biases))
        return Case(*lists, leaf(self.scale), [t.to(dtype) for t in self.dy])  # type: ignore[arg-type]

    def stored(self, layouts: Sequence[str]) -> Case:
        """The images in these layouts, in turn, the gradients in the first."""
        x = [laid_out(t, layouts[i % len(layouts)]) for i, t in enumerate(self.x)]
        return replace(self, x=x, dy=[laid_out(t, layouts[0]) for t in self.dy])


def case(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    kernels: Sequence[int] = RDFE,
    shared: bool = True,
    scaled: bool = False,
    biased: bool = True,
    seed: int = 0,
) -> Case:
    n, c, _, _ = shape
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    return Case(
        [draw(*shape) for _ in range(1 if shared else len(kernels))],
        [draw(c, 1, k, k) / k for k in kernels],
        [draw(c) if biased else None for _ in kernels],
        draw(n, c, 1, 1).sigmoid() if scaled else None,
        [draw(*shape) for _ in kernels],
    )


def check(inputs: Case, backend: str = "cpu") -> None:
    """Outputs and all gradients against the reference in float64."""
    dtype = inputs.x[0].dtype
    ours, oracle = inputs.to(dtype), inputs.to(torch.float64)
    outputs, expected = ours.call(backend), oracle.reference()
    for k, (y, want) in enumerate(zip(outputs, expected, strict=True)):
        assert y.dtype == dtype
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert_close(y, want, FORWARD, f"y[{k}]")
    gradients = torch.autograd.grad(outputs, ours.leaves(), inputs.dy)
    wanted = torch.autograd.grad(expected, oracle.leaves(), oracle.dy)
    for name, gradient, want in zip(ours.names(), gradients, wanted, strict=True):
        assert gradient.dtype == dtype
        assert_close(gradient, want, BACKWARD, f"gradient of {name}")
