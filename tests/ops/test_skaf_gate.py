"""skaf_gate against the reference in float64: values and gradients in every shape, layout and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminet_fast.ops import skaf_gate
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference import EDFF
from aminet_fast.reference.config import AMINetConfig
from aminet_fast.reference.skaf import skaf_gate_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.skaf_gate_inputs import BACKENDS, SHAPES, arguments, check, compiled_only, stored
from tests.tolerances import assert_close


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...], layout: str) -> None:
    *inputs, dy = arguments(shape, torch.float32)
    check(stored(inputs, [layout]), laid_out(dy, layout), "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    *inputs, dy = arguments(shape, dtype)
    inputs, dy = stored(inputs, [layout]), laid_out(dy, layout)
    check(inputs, dy, "cpu")
    check(inputs[:5], dy, "cpu")  # without residual


@compiled_only
@pytest.mark.parametrize("first", range(len(LAYOUTS)))
def test_arguments_of_different_layouts(first: int) -> None:
    *inputs, dy = arguments((2, 24, 9, 17), torch.float32)
    layouts = LAYOUTS[first:] + LAYOUTS[:first]
    check(stored(inputs, layouts), laid_out(dy, layouts[1]), "cpu")
    check(stored(inputs, layouts), dy[:, :1, :1, :1].expand_as(dy), "cpu")


@compiled_only
@pytest.mark.parametrize("kernel", [1, 3, 5, 9, 15])
def test_other_kernels(kernel: int) -> None:
    *inputs, dy = arguments((2, 3, 6, 19), torch.float64, kernel=kernel)
    check(inputs, dy, "cpu")


@compiled_only
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 40)),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=5),
    residual=st.booleans(),
)
def test_any_shape(shape: tuple[int, ...], layouts: list[str], residual: bool) -> None:
    *inputs, dy = arguments(shape, torch.float64)
    check(stored(inputs, layouts)[: 6 if residual else 5], laid_out(dy, layouts[0]), "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
def test_saturated_gates_and_nan(backend: str) -> None:
    m, weight, bias, g, other, residual, _ = arguments((1, 3, 2, 5), torch.float32)
    for level, w in [(1e4, 1.0), (-1e4, 0.0), (torch.inf, 1.0), (-torch.inf, 0.0), (torch.nan, torch.nan)]:
        y = skaf_gate(m, weight * 0, torch.full_like(bias, level), g, other, residual, backend)
        torch.testing.assert_close(y, residual + g * w + other * w, equal_nan=True)


def test_is_what_edff_computes() -> None:
    torch.manual_seed(0)
    edff, encoder, decoder = EDFF(6, AMINetConfig()), torch.randn(2, 6, 9, 8), torch.randn(2, 6, 9, 8)
    s = edff.reduce(torch.cat([encoder, decoder], 1))
    m = edff.skaf.pool(torch.cat([conv(s) for conv in edff.skaf.convs], 1))
    ours = skaf_gate(m, edff.skaf.mix.weight, edff.skaf.mix.bias, encoder, decoder)
    torch.testing.assert_close(ours, edff(encoder, decoder))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layout_of_g_is_kept(layout: str, backend: str) -> None:
    *inputs, dy = arguments((2, 24, 5, 7), torch.float32)
    inputs[3] = laid_out(inputs[3], layout).requires_grad_()
    y = skaf_gate(*inputs, backend=backend)
    assert y.stride() == inputs[3].stride()
    (dg,) = torch.autograd.grad(y, inputs[3], dy.contiguous(memory_format=torch.channels_last))
    assert dg.shape == y.shape
    assert backend == "reference" or dg.stride() == y.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_maps_and_parameters_with_low_precision_images(dtype: torch.dtype, backend: str) -> None:
    *inputs, dy = arguments((2, 24, 5, 7), dtype)
    inputs[:3] = [t.float().requires_grad_() for t in inputs[:3]]
    y = skaf_gate(*inputs, backend=backend)
    oracle = [t.detach().double().requires_grad_() for t in inputs]
    expected = skaf_gate_ref(*oracle)
    assert_close(y.float().to(dtype), expected, {dtype: (2**-6, 2**-7)}, "y")
    gradients = torch.autograd.grad(y, inputs[:3], dy)
    for got, want in zip(gradients, torch.autograd.grad(expected, oracle[:3], dy.double()), strict=True):
        assert got.dtype == torch.float32
        assert_close(got.to(dtype), want, {dtype: (2**-5, 2**-5)}, "gradient")


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_is_written(shape: tuple[int, ...], layout: str) -> None:
    *inputs, dy = arguments(shape, torch.float32)
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        check(stored(inputs, [layout]), laid_out(dy, layout), "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_threads_do_not_change_a_bit(layout: str) -> None:
    *inputs, dy = arguments((3, 24, 61, 67), torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = [t.detach().requires_grad_() for t in stored(inputs, [layout])]
            y = skaf_gate(*ours, backend="cpu")
            results.append((y, *torch.autograd.grad(y, ours, dy)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
