"""norm_act_conv against the reference in float64: values and gradients in every shape, layout and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminet_fast.ops import channel_moments, norm_act_conv
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference.frm import channel_moments_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.norm_act_conv_inputs import (
    BACKENDS,
    OPTIONS,
    SHAPES,
    arguments,
    check,
    compiled_only,
    output_gradients,
    stored,
)
from tests.tolerances import BACKWARD, FORWARD, assert_close


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_reference_values_and_gradients(options: tuple[int, str, bool]) -> None:
    check(stored(arguments(SHAPES[3], torch.float32), "sliced"), options, "reference")


@compiled_only
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype, options: tuple[int, str, bool]) -> None:
    check(stored(arguments(shape, dtype), "channels_last"), options, "cpu")


@compiled_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS[1:6:2], ids=str)
def test_layouts(layout: str, options: tuple[int, str, bool]) -> None:
    check(stored(arguments(SHAPES[3], torch.float32), layout), options, "cpu")


@compiled_only
@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (3, 40, 20, 40, 40)]),
    options=st.sampled_from(OPTIONS),
    layout=st.sampled_from(LAYOUTS),
    slope=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_any_shape(shape: tuple[int, ...], options: tuple[int, str, bool], layout: str, slope: float) -> None:
    check(stored(arguments(shape, torch.float64), layout), options, "cpu", slope)


@compiled_only
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(2, 40, 100, 90, 24), (3, 33, 40, 37, 64)], ids=str)
def test_maps_of_many_pieces(shape: tuple[int, ...], options: tuple[int, str, bool]) -> None:
    """Larger than what is worked on together, in rows and in images."""
    check(stored(arguments(shape, torch.float64), "channels_last"), options, "cpu")


@compiled_only
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_element_is_written(options: tuple[int, str, bool]) -> None:
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        for shape in SHAPES:
            check(stored(arguments(shape, torch.float32), "channels_last"), options, "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


@compiled_only
@pytest.mark.parametrize("options", OPTIONS[:6], ids=str)
def test_threads_do_not_change_a_bit(options: tuple[int, str, bool]) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            inputs = stored(arguments((3, 24, 31, 67, 48), torch.float32), "channels_last")
            ours = [t.requires_grad_() for t in inputs]
            outputs = norm_act_conv(*ours, 0.2, *options, backend="cpu")
            results.append((*outputs, *torch.autograd.grad(outputs, ours, output_gradients(outputs))))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@compiled_only
def test_moments_far_from_zero() -> None:
    """float32 keeps its digits where the mean is large beside the spread."""
    x = torch.randn(2, 24, 33, 40) + 1000
    for value, want in zip(channel_moments(x), channel_moments_ref(x.double()), strict=True):
        torch.testing.assert_close(value.double(), want, rtol=2e-4, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 5, 7, 11), (2, 24, 40, 61)], ids=str)
def test_channel_moments(shape: tuple[int, ...], layout: str, dtype: torch.dtype, backend: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = laid_out(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype), layout).requires_grad_()
    oracle = x.detach().double().requires_grad_()
    moments, expected = channel_moments(x, backend), channel_moments_ref(oracle)
    for value, want in zip(moments, expected, strict=True):
        assert value.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(value.double(), want, rtol=1e-5, atol=1e-6)
    gradients = output_gradients(moments)
    (found,) = torch.autograd.grad(moments, x, gradients)
    (want,) = torch.autograd.grad(expected, oracle, [g.double() for g in gradients])
    assert found.dtype == dtype
    assert_close(found, want, BACKWARD if dtype.itemsize > 2 else FORWARD, "gradient of x")
