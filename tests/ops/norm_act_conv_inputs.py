"""Inputs of norm_act_conv, and its check against the reference in float64; shared by the tests of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import norm_act_conv
from aminet_fast.ops.extension import load
from aminet_fast.reference.frm import norm_act_conv_ref
from tests.harness.layouts import laid_out
from tests.tolerances import BACKWARD, FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
# (N, C, H, W, K): one pixel, one row, odd and prime maps, channels that fill no vector, the network's.
SHAPES = [
    (1, 1, 1, 1, 1),
    (2, 3, 1, 6, 5),
    (3, 5, 7, 2, 24),
    (2, 24, 9, 17, 24),
    (1, 17, 12, 11, 64),
    (2, 64, 6, 8, 33),
]
# stride, padding, upsample
OPTIONS = [
    (1, "zeros", False),
    (1, "reflect", False),
    (2, "reflect", False),
    (2, "zeros", False),
    (1, "reflect", True),
    (1, "zeros", True),
    (2, "reflect", True),
]
NAMES = ("x", "scale", "shift", "weight")
OUTPUTS = ("y", "mean", "var")


def arguments(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """x, scale, shift and weight."""
    n, c, h, w, k = shape
    generator = torch.Generator().manual_seed(seed)
    sizes = [(n, c, h, w), (c,), (c,), (k, c, 3, 3)]
    x, scale, shift, weight = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return [t.to(dtype) for t in (x, scale, shift, weight / (3 * c**0.5))]


def output_gradients(outputs: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """A gradient for each output, of its dtype; those of the moments grow with what they are means of."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in outputs]
    return [g.to(t.dtype) for g, t in zip(drawn, outputs, strict=True)]


def check(inputs: Sequence[Tensor], options: Sequence[object], backend: str, slope: float = 0.2) -> None:
    """Outputs and all gradients against the reference in float64."""
    ours = [t.detach().requires_grad_() for t in inputs]
    oracle = [t.detach().double().contiguous().requires_grad_() for t in inputs]
    outputs = norm_act_conv(*ours, slope, *options, backend=backend)
    expected = norm_act_conv_ref(*oracle, slope, *options)
    dtype = inputs[0].dtype
    assert outputs[0].dtype == dtype
    # Low precision rounds the activation and the gradient that goes through the convolution, beside the result.
    low = dtype in (torch.bfloat16, torch.float16)
    forward, backward = ({d: (r * 8, a * 8) for d, (r, a) in t.items()} if low else t for t in (FORWARD, BACKWARD))
    for name, value, want in zip(OUTPUTS, outputs, expected, strict=True):
        assert_close(value.to(dtype), want, forward, name)
    gradients = output_gradients(outputs)
    found = torch.autograd.grad(outputs, ours, gradients)
    wanted = torch.autograd.grad(expected, oracle, [g.double() for g in gradients])
    # A sum over all pixels of terms that may cancel is bounded by the terms, which one pixel's gradient stands for.
    for name, gradient, want, of in zip(NAMES, found, wanted, ours, strict=True):
        assert gradient.dtype == of.dtype
        if low and name in ("scale", "shift"):
            assert gradient.isfinite().all()
            continue
        assert_close(gradient, want, backward, f"gradient of {name}")


def stored(inputs: Sequence[Tensor], layout: str) -> list[Tensor]:
    """x and weight in the layout."""
    x, scale, shift, weight = inputs
    return [laid_out(x, layout), scale, shift, laid_out(weight, layout)]
