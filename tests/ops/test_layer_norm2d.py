"""layer_norm2d against the reference in float64: values and gradients of every shape, layout, dtype and kernel copy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminet_fast.ops import layer_norm2d
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference.norm import layer_norm2d_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.layer_norm2d_inputs import BACKENDS, SHAPES, arguments, check, compiled_only
from tests.tolerances import BACKWARD, FORWARD, assert_close


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...], layout: str) -> None:
    x, weight, bias, dy = arguments(shape, torch.float32)
    check(laid_out(x, layout), weight, bias, laid_out(dy, layout), "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    x, weight, bias, dy = arguments(shape, dtype)
    check(laid_out(x, layout), weight, bias, laid_out(dy, layout), "cpu")


@compiled_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 1, 5, 3)], ids=str)
def test_one_channel_is_its_own_mean(shape: tuple[int, ...], layout: str) -> None:
    x, weight, bias, dy = arguments(shape, torch.float32)
    x = laid_out(x, layout).requires_grad_()
    y = layer_norm2d(x, weight, bias.requires_grad_(), backend="cpu")
    assert torch.equal(y, bias.expand(shape[0], shape[2], shape[3])[:, None])
    dx, dbias = torch.autograd.grad(y, (x, bias), dy)
    torch.testing.assert_close(dx, torch.zeros_like(dx), rtol=0, atol=1e-5)  # 1 / sqrt(eps) roundings
    torch.testing.assert_close(dbias, dy.sum((0, 2, 3)))


@compiled_only
@pytest.mark.parametrize("of_x", ["contiguous", "channels_last"])
@pytest.mark.parametrize("of_dy", ["contiguous", "channels_last", "sliced", "expanded"])
def test_gradient_of_another_layout(of_x: str, of_dy: str) -> None:
    x, weight, bias, dy = arguments((2, 24, 5, 7), torch.float32)
    dy = dy[:, :1, :1, :1].expand_as(dy) if of_dy == "expanded" else laid_out(dy, of_dy)
    check(laid_out(x, of_x), weight, bias, dy, "cpu")


@compiled_only
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 40), st.integers(1, 20), st.integers(1, 20)),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced"]),
    eps=st.sampled_from([1e-5, 1e-3, 1.0]),
)
def test_any_shape(shape: tuple[int, ...], layout: str, eps: float) -> None:
    x, weight, bias, dy = arguments(shape, torch.float64)
    check(laid_out(x, layout), weight, bias, dy, "cpu", eps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layout_is_kept(layout: str, backend: str) -> None:
    x, weight, bias, dy = arguments((2, 24, 5, 7), torch.float32)
    x = laid_out(x, layout).requires_grad_()
    y = layer_norm2d(x, weight, bias, backend=backend)
    assert y.stride() == x.stride()
    y.backward(dy)
    assert x.grad is not None
    assert x.grad.stride() == x.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_low_precision_images(dtype: torch.dtype, backend: str) -> None:
    x, weight, bias, dy = arguments((2, 24, 5, 7), dtype)
    weight, bias = weight.float().requires_grad_(), bias.float().requires_grad_()
    y = layer_norm2d(x, weight, bias, backend=backend)
    expected = layer_norm2d_ref(x.double(), weight.double(), bias.double())
    assert_close(y, expected, FORWARD, "y")
    dweight, dbias = torch.autograd.grad(y, (weight, bias), dy)
    assert dweight.dtype == dbias.dtype == torch.float32
    assert_close(dbias.to(dtype), dy.double().sum((0, 2, 3)), BACKWARD, "dbias")


@compiled_only
def test_gradcheck() -> None:
    x, weight, bias, _ = arguments((2, 5, 3, 4), torch.float64)
    assert torch.autograd.gradcheck(layer_norm2d, [t.requires_grad_() for t in (x, weight, bias)])


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_threads_do_not_change_a_bit(layout: str) -> None:
    x, weight, bias, dy = arguments((3, 24, 61, 67), torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            inputs = [t.detach().requires_grad_() for t in (laid_out(x, layout), weight, bias)]
            y = layer_norm2d(*inputs, backend="cpu")
            results.append((y, *torch.autograd.grad(y, inputs, dy)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
