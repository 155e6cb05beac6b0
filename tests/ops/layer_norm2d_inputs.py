"""What the tests of layer_norm2d share: shapes, arguments, and the comparison with the reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import layer_norm2d
from aminet_fast.ops.extension import load
from aminet_fast.reference.norm import layer_norm2d_ref
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
SHAPES = [(1, 7, 1, 1), (3, 7, 11, 13), (2, 24, 9, 17), (1, 48, 8, 8), (2, 96, 5, 5), (1, 192, 4, 4)]


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    x, dy = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    weight, bias = (torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(2))
    return tuple(t.to(dtype) for t in (x + 0.3, weight, bias, dy))  # type: ignore[return-value]


def check(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor, backend: str, eps: float = 1e-5) -> Tensor:
    """Output and all gradients against the reference in float64; the output for further checks."""
    ours = [t.detach().requires_grad_() for t in (x, weight, bias)]
    oracle = [t.detach().double().contiguous().requires_grad_() for t in (x, weight, bias)]
    y, expected = layer_norm2d(*ours, eps, backend=backend), layer_norm2d_ref(*oracle, eps)
    assert y.dtype == x.dtype
    assert_close(y, expected, FORWARD, "y")
    gradients = torch.autograd.grad(y, ours, dy)
    wanted = torch.autograd.grad(expected, oracle, dy.double())
    for name, gradient, want, of in zip(("dx", "dweight", "dbias"), gradients, wanted, ours, strict=True):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, BACKWARD, name)
    return y
