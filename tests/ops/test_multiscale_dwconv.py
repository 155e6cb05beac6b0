"""multiscale_dwconv against the reference in float64: values and gradients in every shape, layout and dtype."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminet_fast.ops import multiscale_dwconv
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference.config import AMINetConfig
from aminet_fast.reference.rdfe import RDFE as ReferenceRDFE
from aminet_fast.reference.rdfe import parameters
from tests.harness.layouts import LAYOUTS
from tests.ops.multiscale_dwconv_inputs import BACKENDS, RDFE, SHAPES, case, check, compiled_only
from tests.tolerances import assert_close


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...], shared: bool) -> None:
    check(case(shape, torch.float32, shared=shared, scaled=not shared).stored(LAYOUTS), "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    check(case(shape, dtype).stored([layout]))
    check(case(shape, dtype, shared=False, scaled=True).stored([layout]))


@compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("shared", "scaled"), [(True, True), (False, False)])
def test_scale_of_a_shared_input_and_none_of_single_ones(
    shared: bool, scaled: bool, biased: bool, dtype: torch.dtype
) -> None:
    check(case((2, 24, 19, 23), dtype, shared=shared, scaled=scaled, biased=biased))


@compiled_only
@pytest.mark.parametrize("kernels", [(1,), (7,), (9, 3), (5, 5, 5, 11), (1, 15)], ids=str)
def test_other_kernels(kernels: tuple[int, ...]) -> None:
    for shared in (True, False):
        check(case((2, 19, 6, 21), torch.float64, kernels, shared, scaled=True))


@compiled_only
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 40), st.integers(1, 40)),
    kernels=st.lists(st.sampled_from([1, 3, 5, 7, 9]), min_size=1, max_size=4),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=3),
    shared=st.booleans(),
    scaled=st.booleans(),
)
def test_any_shape(shape: tuple[int, ...], kernels: list[int], layouts: list[str], shared: bool, scaled: bool) -> None:
    check(case(shape, torch.float64, kernels, shared, scaled).stored(layouts))


@compiled_only
@pytest.mark.slow
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_networks_sizes(channels: int, dtype: torch.dtype) -> None:
    side = 128 * 24 // channels
    check(case((2, channels, side, side), dtype).stored(["channels_last"]))
    check(case((2, channels, side, side), dtype, shared=False, scaled=True).stored(["contiguous"]))


@compiled_only
def test_broadcast_gradients_and_one_output_alone() -> None:
    inputs = case((2, 24, 9, 17), torch.float32)
    check(replace(inputs, dy=[t[:, :1, :1, :1].expand_as(t) for t in inputs.dy]))
    ours, oracle = inputs.to(torch.float32), inputs.to(torch.float64)
    for k in range(3):
        gradients = torch.autograd.grad(ours.call()[k], ours.leaves(), inputs.dy[k], allow_unused=True)
        wanted = torch.autograd.grad(
            oracle.reference()[k], oracle.leaves(), oracle.dy[k], allow_unused=True, materialize_grads=True
        )
        for gradient, want in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient.double(), want, rtol=1e-4, atol=1e-4)


def test_is_what_rdfe_computes() -> None:
    torch.manual_seed(0)
    rdfe, y = ReferenceRDFE(6, AMINetConfig()), torch.randn(2, 6, 9, 8)
    f = multiscale_dwconv(y, *parameters(rdfe.dw1))
    f = multiscale_dwconv(f, *parameters(rdfe.dw2), rdfe.au(torch.cat(f, 1)))
    ours = rdfe.fuse(torch.cat(f, 1)) + y
    torch.testing.assert_close(ours, rdfe.front(y))
    f = [dw(y) for dw in rdfe.dw1]
    a = rdfe.au(torch.cat(f, 1))
    by_hand = [dw(f_k * a) for dw, f_k in zip(rdfe.dw2, f, strict=True)]
    torch.testing.assert_close(ours, rdfe.fuse(torch.cat(by_hand, 1)) + y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_low_precision_images(dtype: torch.dtype, backend: str) -> None:
    inputs = case((2, 24, 5, 7), dtype, scaled=True)
    low = inputs.to(dtype)
    mixed = replace(inputs.to(torch.float32), x=low.x, dy=low.dy)
    oracle = inputs.to(torch.float64)
    outputs, expected = mixed.call(backend), oracle.reference()
    for y, want in zip(outputs, expected, strict=True):
        assert_close(y, want, {dtype: (2**-6, 2**-7)}, "y")
    gradients = torch.autograd.grad(outputs, mixed.leaves(), mixed.dy)
    for got, want in zip(gradients[1:], torch.autograd.grad(expected, oracle.leaves(), oracle.dy)[1:], strict=True):
        assert got.dtype == torch.float32
        assert_close(got.to(dtype), want, {dtype: (2**-5, 2**-5)}, "gradient")


@compiled_only
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_is_written(shape: tuple[int, ...]) -> None:
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        check(case(shape, torch.float32).stored(["channels_last"]))
        check(case(shape, torch.float32, shared=False, scaled=True).stored(["sliced"]))
    finally:
        torch.use_deterministic_algorithms(False)


@compiled_only
@pytest.mark.parametrize("shape", [(3, 24, 61, 37), (1, 100, 40, 9)], ids=str)
def test_threads_do_not_change_a_bit(shape: tuple[int, ...]) -> None:
    inputs = case(shape, torch.float32, scaled=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            ours = inputs.to(torch.float32)
            outputs = ours.call()
            results.append((*outputs, *torch.autograd.grad(outputs, ours.leaves(), inputs.dy)))
    finally:
        torch.set_num_threads(before)
    for one, other in pairwise(results):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@compiled_only
@pytest.mark.parametrize("kernels", [RDFE, (1, 9)], ids=str)
def test_nan_stays_within_the_kernels_reach(kernels: tuple[int, ...]) -> None:
    inputs = case((1, 5, 21, 22), torch.float32, kernels)
    inputs.x[0][0, 2, 10, 11] = torch.nan
    for kernel, y in zip(kernels, inputs.call(), strict=True):
        reach = torch.zeros(1, 5, 21, 22, dtype=torch.bool)
        r = kernel // 2
        reach[0, 2, 10 - r : 11 + r, 11 - r : 12 + r] = True
        assert torch.equal(y.isnan(), reach)
