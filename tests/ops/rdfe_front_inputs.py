"""Inputs of rdfe_front, and its check against the reference in float64; shared by the tests of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import rdfe_front
from aminet_fast.ops.extension import load
from aminet_fast.reference.rdfe import rdfe_front_ref
from tests.harness.layouts import laid_out
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
# Images smaller than the kernels, odd and prime ones, several bands, several blocks of channels, the network's.
SHAPES = [
    (1, 1, 1, 1),
    (3, 7, 11, 13),
    (2, 24, 9, 17),
    (1, 5, 67, 3),
    (1, 48, 2, 8),
    (2, 97, 5, 4),
    (1, 192, 4, 16),
]
Arguments = list[Any]  # rdfe_front's, tensors and lists of tensors


def arguments(
    shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0, kernels: Sequence[int] = (3, 5, 7), hidden: int = 0
) -> tuple[Arguments, Tensor]:
    """y and the parameters, and the gradient of the output; every step keeps about the size of what goes in."""
    n, c, h, w = shape
    generator, b, hidden = torch.Generator().manual_seed(seed), len(kernels), hidden or max(c // 4, 1)

    def drawn(*size: int, fan: int = 1) -> Tensor:
        return (torch.randn(size, generator=generator, dtype=torch.float64) / fan**0.5).to(dtype)

    branches = [([drawn(c, 1, k, k, fan=k * k) for k in kernels], [drawn(c) for _ in kernels]) for _ in range(2)]
    unit = drawn(hidden, b * c, 1, 1, fan=c), drawn(hidden), drawn(c, hidden, 1, 1, fan=hidden), drawn(c)
    fuse = drawn(c, b * c, 1, 1, fan=b * c), drawn(c)
    return [drawn(n, c, h, w), *branches[0], *unit, *branches[1], *fuse], drawn(n, c, h, w)


def mapped(inputs: Arguments, function: Callable[[Tensor], Tensor]) -> Arguments:
    return [[function(t) for t in entry] if isinstance(entry, list) else function(entry) for entry in inputs]


def flat(inputs: Arguments) -> list[Tensor]:
    return [t for entry in inputs for t in (entry if isinstance(entry, list) else [entry])]


def stored(inputs: Arguments, layout: str) -> Arguments:
    return [laid_out(inputs[0], layout), *inputs[1:]]


def check(inputs: Arguments, dz: Tensor, backend: str) -> Tensor:
    """Output and all gradients against the reference in float64; the output for further checks."""
    ours = mapped(inputs, lambda t: t.detach().requires_grad_())
    oracle = mapped(inputs, lambda t: t.detach().double().contiguous().requires_grad_())
    z, expected = rdfe_front(*ours, backend=backend), rdfe_front_ref(*oracle)
    assert z.dtype == inputs[0].dtype
    assert_close(z, expected, FORWARD, "z")
    gradients = torch.autograd.grad(z, flat(ours), dz)
    wanted = torch.autograd.grad(expected, flat(oracle), dz.double())
    for i, (gradient, want, of) in enumerate(zip(gradients, wanted, flat(ours), strict=True)):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, BACKWARD, f"gradient {i} of shape {list(of.shape)}")
    return z
