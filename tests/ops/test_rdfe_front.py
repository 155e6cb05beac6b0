"""rdfe_front against the reference in float64: values and gradients in every shape, layout and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminet_fast.ops import rdfe_front
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference import RDFE
from aminet_fast.reference.config import AMINetConfig
from aminet_fast.reference.rdfe import rdfe_front_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.rdfe_front_inputs import BACKENDS, SHAPES, arguments, check, compiled_only, flat, mapped, stored
from tests.tolerances import assert_close


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...], layout: str) -> None:
    inputs, dz = arguments(shape, torch.float32)
    check(stored(inputs, layout), laid_out(dz, layout), "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs, dz = arguments(shape, dtype)
    check(stored(inputs, "channels_last"), dz, "cpu")


@compiled_only
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_cpu_layouts(shape: tuple[int, ...], layout: str) -> None:
    inputs, dz = arguments(shape, torch.float32)
    check(stored(inputs, layout), laid_out(dz, layout), "cpu")
    check(stored(inputs, layout), dz[:, :1, :1, :1].expand_as(dz), "cpu")


@compiled_only
@pytest.mark.parametrize("kernels", [(1,), (7,), (9, 3), (5, 5), (7, 5, 3, 1), (11,)], ids=str)
def test_other_kernels(kernels: tuple[int, ...]) -> None:
    for shape in [(2, 3, 6, 19), (1, 9, 35, 4)]:
        inputs, dz = arguments(shape, torch.float64, kernels=kernels, hidden=5)
        check(inputs, dz, "cpu")


@compiled_only
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 20), st.integers(1, 24)),
    layout=st.sampled_from(LAYOUTS),
    kernels=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3),
)
def test_any_shape(shape: tuple[int, ...], layout: str, kernels: list[int]) -> None:
    inputs, dz = arguments(shape, torch.float64, kernels=kernels)
    check(stored(inputs, layout), laid_out(dz, layout), "cpu")


@compiled_only
@pytest.mark.slow
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
def test_sizes_of_the_network(channels: int) -> None:
    side = 128 * 24 // channels
    inputs, dz = arguments((4, channels, side, side), torch.float32)
    check(stored(inputs, "channels_last"), laid_out(dz, "channels_last"), "cpu")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("level", [1e4, -1e4])
def test_saturated_attention(level: float, backend: str) -> None:
    """A closed unit leaves y and what biases make; an open one the convolutions alone. Nothing divides by a."""
    inputs, dz = arguments((1, 5, 6, 7), torch.float64)
    inputs[6] = torch.full_like(inputs[6], level)
    z = check(inputs, dz, backend)
    assert z.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_passes(backend: str) -> None:
    inputs, _ = arguments((2, 5, 6, 7), torch.float32)
    inputs[0][1, 3, 2, 2] = torch.nan
    z = rdfe_front(*inputs, backend=backend)
    assert z[0].isfinite().all()
    assert z[1].isnan().all()  # through the mean


@pytest.mark.parametrize("backend", BACKENDS)
def test_is_what_the_module_computes(backend: str) -> None:
    torch.manual_seed(0)
    module, y = RDFE(6, AMINetConfig(frm=False)), torch.randn(2, 6, 9, 8)
    torch.testing.assert_close(rdfe_front(y, *module.front_parameters(), backend=backend), module(y))
    f = [dw(y) for dw in module.dw1]
    a = module.au(torch.cat(f, 1))
    spelled = module.fuse(torch.cat([dw(f_k * a) for dw, f_k in zip(module.dw2, f, strict=True)], 1)) + y
    assert torch.equal(spelled, module(y))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layout_of_y_is_kept(layout: str, backend: str) -> None:
    inputs, dz = arguments((2, 24, 5, 7), torch.float32)
    y = laid_out(inputs[0], layout).requires_grad_()
    z = rdfe_front(y, *inputs[1:], backend=backend)
    assert z.stride() == y.stride()
    (dy,) = torch.autograd.grad(z, y, dz.contiguous(memory_format=torch.channels_last))
    assert backend == "reference" or dy.stride() == y.stride()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_low_precision_images(dtype: torch.dtype, backend: str) -> None:
    inputs, dz = arguments((2, 24, 5, 7), dtype)
    inputs = [inputs[0].requires_grad_(), *mapped(inputs[1:], lambda t: t.float().requires_grad_())]
    oracle = mapped(inputs, lambda t: t.detach().double().requires_grad_())
    z, expected = rdfe_front(*inputs, backend=backend), rdfe_front_ref(*oracle)
    assert z.dtype == dtype
    assert_close(z, expected, {dtype: (2**-5, 2**-6)}, "z")
    gradients = torch.autograd.grad(z, flat(inputs), dz)
    wanted = torch.autograd.grad(expected, flat(oracle), dz.double())
    for got, want, of in zip(gradients, wanted, flat(inputs), strict=True):
        assert got.dtype == of.dtype
        assert_close(got.to(dtype), want, {dtype: (2**-4, 2**-4)}, "gradient")


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_is_written(shape: tuple[int, ...], layout: str) -> None:
    inputs, dz = arguments(shape, torch.float32)
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        check(stored(inputs, layout), laid_out(dz, layout), "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


@compiled_only
@pytest.mark.parametrize("shape", [(3, 24, 61, 37), (1, 97, 40, 9)], ids=str)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...]) -> None:
    inputs, dz = arguments(shape, torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = mapped(stored(inputs, "channels_last"), lambda t: t.detach().requires_grad_())
            z = rdfe_front(*ours, backend="cpu")
            results.append((z, *torch.autograd.grad(z, flat(ours), dz)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)
