"""Inputs of hourglass_gate, and its check against the reference in float64; shared by the tests of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import hourglass_gate
from aminet_fast.ops.extension import load
from aminet_fast.reference.frm import hourglass_gate_ref
from tests.harness.layouts import laid_out
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
# (N, C, H, W, M): one pixel, axes of one and two pixels, odd and prime maps, bands that end inside, the network's.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 1, 5, 7),
    (1, 5, 2, 2, 17),
    (3, 7, 11, 13, 5),
    (2, 24, 9, 70, 64),
    (1, 20, 40, 67, 24),
]
IMAGES = (0, 1, 4, 7)
NAMES = ["z", "x", "x_scale", "x_shift", "a", "a_scale", "a_shift", "b", "b_scale", "b_shift", "weight", "bias"]


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """The operator's twelve tensors, and the gradient of its output."""
    n, c, h, w, m = shape
    generator = torch.Generator().manual_seed(seed)
    norm, maps = [(n, c, h, w), (c,), (c,)], [(n, m, h, w), (m,), (m,)]
    sizes = [(n, c, h, w), *norm, *maps, *maps, (1, m, 3, 3), (1,), (n, c, h, w)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    tensors[10] /= 3 * m**0.5  # gates spread over (0, 1), not saturated
    return [t.to(dtype) for t in tensors]


def stored(tensors: Sequence[Tensor], layouts: Sequence[str]) -> list[Tensor]:
    """The images of `tensors` in the layouts, in turn."""
    return [laid_out(t, layouts[i % len(layouts)]) if i in IMAGES else t for i, t in enumerate(tensors)]


def check(inputs: Sequence[Tensor], dy: Tensor, backend: str, slope: float = 0.2) -> None:
    """Output and all gradients against the reference in float64."""
    ours = [t.detach().requires_grad_() for t in inputs]
    oracle = [t.detach().double().contiguous().requires_grad_() for t in inputs]
    y, expected = hourglass_gate(*ours, slope, backend), hourglass_gate_ref(*oracle, slope)
    dtype = inputs[1].dtype
    assert y.dtype == dtype
    # The plain PyTorch of low precision rounds at every step.
    low = 16 if dtype.itemsize == 2 and backend == "reference" else 1
    forward, backward = ({d: (r * low, a * low) for d, (r, a) in t.items()} for t in (FORWARD, BACKWARD))
    assert_close(y, expected, forward, "y")
    found = torch.autograd.grad(y, ours, dy)
    wanted = torch.autograd.grad(expected, oracle, dy.double())
    for name, gradient, want, of in zip(NAMES, found, wanted, ours, strict=True):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, backward, f"gradient of {name}")
