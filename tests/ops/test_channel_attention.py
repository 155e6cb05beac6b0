"""channel_attention against the reference in float64: values and gradients in every shape, layout and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aminet_fast.ops import channel_attention
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference import SelfAttention
from aminet_fast.reference.attention import channel_attention_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.channel_attention_inputs import (
    BACKENDS,
    SHAPES,
    arguments,
    check,
    compiled_only,
    needing_gradients,
    tensors,
)


def stored(inputs: list[Tensor | None], layout: str) -> list[Tensor | None]:
    """x in the layout."""
    x, *rest = inputs
    assert x is not None
    return [laid_out(x, layout), *rest]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "heads"), SHAPES[:4], ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...], heads: int, layout: str) -> None:
    inputs, dy = arguments(shape, heads, torch.float32)
    check(stored(inputs, layout), heads, laid_out(dy, layout), "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "heads"), SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], heads: int, layout: str, dtype: torch.dtype) -> None:
    inputs, dy = arguments(shape, heads, dtype)
    check(stored(inputs, layout), heads, laid_out(dy, layout), "cpu")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "heads"), SHAPES[1:7], ids=str)
def test_without_temperature(shape: tuple[int, ...], heads: int, dtype: torch.dtype) -> None:
    inputs, dy = arguments(shape, heads, dtype, normalised=False)
    check(stored(inputs, "channels_last"), heads, dy, "cpu")


@compiled_only
@pytest.mark.slow
@pytest.mark.parametrize(("channels", "heads"), [(24, 1), (48, 2), (96, 4), (192, 8)])
def test_the_networks_sizes(channels: int, heads: int) -> None:
    side = 128 * 24 // channels
    inputs, dy = arguments((2, channels, side, side), heads, torch.float32)
    check(stored(inputs, "channels_last"), heads, dy, "cpu")


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_gradients_of_other_layouts(layout: str) -> None:
    inputs, dy = arguments((2, 24, 9, 17), 1, torch.float32)
    for other in LAYOUTS:
        check(stored(inputs, layout), 1, laid_out(dy, other), "cpu")
    check(stored(inputs, layout), 1, dy[:, :1, :1, :1].expand_as(dy), "cpu")


@compiled_only
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    heads=st.integers(1, 3),
    head=st.integers(1, 9),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    layout=st.sampled_from(LAYOUTS),
    normalised=st.booleans(),
)
def test_any_shape(n: int, heads: int, head: int, height: int, width: int, layout: str, normalised: bool) -> None:
    inputs, dy = arguments((n, heads * head, height, width), heads, torch.float64, normalised=normalised)
    check(stored(inputs, layout), heads, laid_out(dy, layout), "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("part", ["q", "k", "x"])
def test_vectors_of_zeros(part: str, backend: str) -> None:
    """Normalisation divides by no less than 1e-12; no gradient goes through a norm below it."""
    inputs, dy = arguments((2, 6, 5, 7), 2, torch.float64)
    x, qkv, *_ = inputs
    assert x is not None
    assert qkv is not None
    if part == "x":
        x.zero_()
    else:
        first = 0 if part == "q" else 6
        qkv[first + 1 : first + 3] = 0
    ours, oracle = needing_gradients(inputs), needing_gradients(inputs)
    y, expected = channel_attention(*ours, 2, backend=backend), channel_attention_ref(*oracle, 2)
    torch.testing.assert_close(y, expected)
    gradients = torch.autograd.grad(y, tensors(ours), dy), torch.autograd.grad(expected, tensors(oracle), dy)
    for got, want in zip(*gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-12 * want.abs().max().item() + 1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_image(backend: str) -> None:
    inputs, _ = arguments((2, 6, 5, 7), 2, torch.float32)
    assert inputs[0] is not None
    inputs[0][1, 2, 3, 4] = torch.nan
    y = channel_attention(*inputs, 2, backend=backend)
    assert y[0].isfinite().all()
    assert y[1].isnan().all()


@pytest.mark.parametrize("scale", ["temperature", "sqrt"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_is_what_self_attention_computes(scale: str, backend: str) -> None:
    torch.manual_seed(0)
    module, x = SelfAttention(12, 3, scale), torch.randn(2, 12, 9, 8)
    temperature = module.temperature if scale == "temperature" else None
    y = channel_attention(x, module.qkv.weight, module.qkv_dw.weight, temperature, module.proj.weight, 3, backend)
    torch.testing.assert_close(y, module(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layout_of_x_is_kept(layout: str, backend: str) -> None:
    inputs, dy = arguments((2, 24, 5, 7), 1, torch.float32)
    ours = needing_gradients(stored(inputs, layout))
    y = channel_attention(*ours, 1, backend=backend)
    assert ours[0] is not None
    assert y.stride() == ours[0].stride()
    (dx,) = torch.autograd.grad(y, ours[0], dy.contiguous(memory_format=torch.channels_last))
    assert backend == "reference" or dx.stride() == y.stride()


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "heads"), SHAPES, ids=str)
def test_every_element_is_written(shape: tuple[int, ...], heads: int, layout: str) -> None:
    inputs, dy = arguments(shape, heads, torch.float32)
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        check(stored(inputs, layout), heads, laid_out(dy, layout), "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize(("shape", "heads"), [((3, 24, 67, 31), 1), ((5, 96, 9, 10), 4)], ids=str)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...], heads: int, layout: str) -> None:
    inputs, dy = arguments(shape, heads, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = needing_gradients(stored(inputs, layout))
            y = channel_attention(*ours, heads, backend="cpu")
            results.append((y, *torch.autograd.grad(y, tensors(ours), dy)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
