"""Inputs of channel_attention, and its check against the reference in float64; shared by the tests of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import channel_attention
from aminet_fast.ops.extension import load
from aminet_fast.reference.attention import channel_attention_ref
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
# ((N, C, H, W), heads): single pixels, primes, rows longer and images taller than one unit of work (33, 67 rows), the
# network's channels; from 64 channels on the forward keeps the 1x1 convolution's output.
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((3, 7, 11, 13), 1),
    ((2, 24, 9, 17), 1),
    ((1, 6, 67, 5), 2),
    ((1, 5, 2, 531), 5),
    ((1, 48, 33, 16), 2),
    ((2, 96, 5, 4), 4),
    ((1, 192, 4, 16), 8),
]
NAMES = ("x", "qkv_weight", "dw_weight", "temperature", "proj_weight")


def arguments(
    shape: tuple[int, ...], heads: int, dtype: torch.dtype, seed: int = 0, normalised: bool = True
) -> tuple[list[Tensor | None], Tensor]:
    """x, qkv_weight, dw_weight, temperature, proj_weight; and the gradient of the output."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(n, c, h, w), (3 * c, c, 1, 1), (3 * c, 1, 3, 3), (heads, 1, 1), (c, c, 1, 1), (n, c, h, w)]
    x, qkv, dw, temperature, proj, dy = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    drawn = [x, qkv / c**0.5, dw / 3, 2 * temperature, proj / c**0.5]
    inputs: list[Tensor | None] = [t.to(dtype) for t in drawn]
    if not normalised:
        inputs[3] = None
    return inputs, dy.to(dtype)


def needing_gradients(inputs: Sequence[Tensor | None], dtype: torch.dtype | None = None) -> list[Tensor | None]:
    """Leaves with the values of `inputs`, layouts kept."""
    return [t if t is None else t.detach().to(dtype or t.dtype).requires_grad_() for t in inputs]


def tensors(inputs: Sequence[Tensor | None]) -> list[Tensor]:
    return [t for t in inputs if t is not None]


def check(inputs: Sequence[Tensor | None], heads: int, dy: Tensor, backend: str) -> None:
    """Output and all gradients against the reference in float64."""
    x = inputs[0]
    assert x is not None
    ours, oracle = needing_gradients(inputs), needing_gradients(inputs, torch.float64)
    y, expected = channel_attention(*ours, heads, backend=backend), channel_attention_ref(*oracle, heads)
    assert y.dtype == x.dtype
    assert_close(y, expected, FORWARD, "y")
    gradients = torch.autograd.grad(y, tensors(ours), dy)
    wanted = torch.autograd.grad(expected, tensors(oracle), dy.double())
    names = [name for name, t in zip(NAMES, ours, strict=True) if t is not None]
    for name, gradient, want, of in zip(names, gradients, wanted, tensors(ours), strict=True):
        assert gradient.dtype == of.dtype
        if want.abs().max() < 1e-9:  # one channel a head: the softmax is 1, and its gradients nothing but rounding
            assert gradient.abs().max() < 1e-3
        else:
            assert_close(gradient, want, BACKWARD, f"gradient of {name}")
