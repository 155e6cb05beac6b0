"""Inputs of skaf_gate, and its check against the reference in float64; shared by the tests of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import skaf_gate
from aminet_fast.ops.extension import load
from aminet_fast.reference.skaf import skaf_gate_ref
from tests.harness.layouts import laid_out
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
# Maps smaller than the kernel, odd and prime ones, rows longer than a block, the network's channels.
SHAPES = [
    (1, 1, 1, 1),
    (3, 7, 11, 13),
    (2, 24, 9, 17),
    (1, 5, 3, 131),
    (1, 48, 2, 8),
    (2, 96, 5, 4),
    (1, 192, 4, 16),
]
IMAGES = (0, 3, 4, 5)  # m, g, local, residual among the arguments
NAMES = ("m", "weight", "bias", "g", "local", "residual")


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, kernel: int = 7) -> list[Tensor]:
    """m, weight, bias, g, local, residual and the gradient of the output."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(n, 2, h, w), (2, 2, kernel, kernel), (2,), *[(n, c, h, w)] * 4]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    tensors[1] *= 1.5 / kernel  # gates spread over (0, 1), not saturated
    return [t.to(dtype) for t in tensors]


def stored(tensors: Sequence[Tensor], layouts: Sequence[str]) -> list[Tensor]:
    """The images of `tensors` in the layouts, in turn."""
    return [laid_out(t, layouts[i % len(layouts)]) if i in IMAGES else t for i, t in enumerate(tensors)]


def check(inputs: Sequence[Tensor], dy: Tensor, backend: str) -> Tensor:
    """Output and all gradients against the reference in float64; the output for further checks."""
    ours = [t.detach().requires_grad_() for t in inputs]
    oracle = [t.detach().double().contiguous().requires_grad_() for t in inputs]
    y, expected = skaf_gate(*ours, backend=backend), skaf_gate_ref(*oracle)
    assert y.dtype == inputs[3].dtype
    assert_close(y, expected, FORWARD, "y")
    gradients = torch.autograd.grad(y, ours, dy)
    wanted = torch.autograd.grad(expected, oracle, dy.double())
    for name, gradient, want, of in zip(NAMES, gradients, wanted, ours, strict=False):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, BACKWARD, f"gradient of {name}")
    return y
