"""skaf_descriptor against the reference in float64: values, gradients, layouts, compiling and refusals."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aminet_fast.ops import skaf_descriptor
from aminet_fast.ops._library import DTYPES
from aminet_fast.ops.extension import load
from aminet_fast.reference.skaf import skaf_descriptor_ref, skaf_features_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.tolerances import BACKWARD, FORWARD, WINOGRAD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
SHAPES = [(1, 1, 1, 1), (3, 7, 11, 13), (2, 24, 9, 17), (1, 48, 8, 8), (2, 96, 5, 5), (1, 192, 4, 4)]
KERNELS = [(3,), (7,), (7, 5), (1, 3, 5), (9, 3)]
Inputs = tuple[Tensor, list[Tensor], list[Tensor], Tensor]


def arguments(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    kernels: tuple[int, ...] = (5, 7),
    outputs: int | None = None,
    seed: int = 0,
) -> Inputs:
    """x, weights, biases and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    n, c, h, w = shape
    weights = [normal(outputs or c, c, k, k) / c**0.5 for k in kernels]
    return normal(*shape), weights, [normal(len(weight)) for weight in weights], normal(n, 2, h, w)


def leaves(inputs: Inputs) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Fresh x, weights and biases that require gradients, and all of them in one list."""
    x, weights, biases = ([t.detach().requires_grad_() for t in g] for g in ([inputs[0]], inputs[1], inputs[2]))
    return x[0], weights, biases, [*x, *weights, *biases]


def check(inputs: Inputs, winograd: bool = False) -> None:
    """Output and all gradients against float64, where the max's gradient goes to the channel that the forward took."""
    x, weights, biases, ours = leaves(inputs)
    m = skaf_descriptor(x, weights, biases, backend="cpu")
    argmax = torch.ops.aminet_fast.skaf_descriptor_fwd(x.detach(), weights, biases)[1]
    ox, oweights, obiases, oracle = leaves(
        tuple([t.double() for t in g] if isinstance(g, list) else g.double() for g in inputs)
    )
    u = skaf_features_ref(ox.contiguous(), oweights, obiases)
    expected = torch.cat([u.mean(1, keepdim=True), u.gather(1, argmax.long()[:, None])], 1)
    assert (m.dtype, m.stride()) == (x.dtype, expected.contiguous().stride())
    terms = skaf_features_ref(
        *([t.abs() for t in g] if isinstance(g, list) else g.abs() for g in (ox, oweights, obiases))
    )
    room = WINOGRAD * terms.max().item() if winograd else 0.0
    assert_close(m, expected, FORWARD, "m", room)
    assert_close(m[:, 1], u.amax(1), FORWARD, "max", room)
    gradients = torch.autograd.grad(m, ours, inputs[3])
    wanted = torch.autograd.grad(expected, oracle, inputs[3].double())
    for i, (gradient, want, of) in enumerate(zip(gradients, wanted, ours, strict=True)):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, BACKWARD, f"gradient {i}")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(arguments(shape, dtype))


@compiled_only
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    x, weights, biases, dm = arguments((2, 24, 9, 17), torch.float32)
    weights = [laid_out(w, layout) for w in weights]
    check((laid_out(x, layout), weights, biases, laid_out(dm, layout)))


@compiled_only
@pytest.mark.parametrize("kernels", KERNELS, ids=str)
def test_kernel_sizes(kernels: tuple[int, ...]) -> None:
    check(arguments((2, 5, 6, 7), torch.float64, kernels, outputs=3))


@compiled_only
def test_more_channels_than_values() -> None:
    """The work of one channel, on average, rounds to none: nothing may be divided by it."""
    check(arguments((1, 1, 1, 1), torch.float64, (1,), outputs=9))


@compiled_only
@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 35), st.integers(1, 14), st.integers(1, 14)),
    kernels=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3),
    outputs=st.integers(1, 9),
    layout=st.sampled_from(["contiguous", "channels_last", "sliced"]),
)
def test_any_shape(shape: tuple[int, ...], kernels: list[int], outputs: int, layout: str) -> None:
    x, weights, biases, dm = arguments(shape, torch.float64, tuple(kernels), outputs)
    check((laid_out(x, layout), weights, biases, laid_out(dm, layout)))


@compiled_only
def test_many_tiles_and_chunks() -> None:
    """More pixels than one tile, and more bytes than one piece of the forward."""
    check(arguments((3, 3, 70, 61), torch.float64))
    check(arguments((2, 8, 150, 151), torch.float32, (3, 5), outputs=24))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_layouts_are_kept(layout: str, backend: str) -> None:
    inputs = arguments((2, 24, 5, 7), torch.float32)
    x, weights, biases, all_ = leaves(
        (laid_out(inputs[0], layout), [laid_out(w, layout) for w in inputs[1]], *inputs[2:])
    )
    m = skaf_descriptor(x, weights, biases, backend=backend)
    assert m.is_contiguous()
    gradients = torch.autograd.grad(m, all_, inputs[3])
    if backend == "cpu":
        assert [g.stride() for g in gradients] == [t.stride() for t in all_]
    expected = torch.autograd.grad(skaf_descriptor_ref(x, weights, biases), all_, inputs[3])
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_one_channel_and_nan_is_the_max(backend: str) -> None:
    x, weights, biases, dm = arguments((2, 6, 9, 8), torch.float64, (3, 5))
    # Small integers, so that no order of summation rounds and equal channels are equal to the bit.
    x, weights, biases = x.round(), [w.mul(3).round() for w in weights], [b.round() for b in biases]
    x[0, 2, 1, 1] = torch.nan
    weights[0][3:], biases[0][3:] = weights[0][:3], biases[0][:3]  # channels 3 to 5 repeat 0 to 2
    weights[1], biases[1] = torch.zeros_like(weights[1]), torch.full_like(biases[1], 0.5)  # and 6 to 11 are one
    one, other = leaves((x, weights, biases, dm)), leaves((x, weights, biases, dm))
    m, expected = skaf_descriptor(*one[:3], backend=backend), skaf_descriptor_ref(*other[:3])
    torch.testing.assert_close(m, expected, equal_nan=True)
    assert m.isnan().any()
    assert (m[:, 1] == 0.5).any()
    x[0, 2, 1, 1] = 1
    m, expected = skaf_descriptor(*one[:3], backend=backend), skaf_descriptor_ref(*other[:3])
    gradients, wanted = torch.autograd.grad(m, one[3], dm), torch.autograd.grad(expected, other[3], dm)
    torch.testing.assert_close(gradients, wanted)


@compiled_only
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_float32_parameters_with_low_precision_images(dtype: torch.dtype) -> None:
    x, weights, biases, dm = arguments((2, 24, 5, 7), dtype)
    low = leaves((x, weights, biases, dm))
    full = leaves((x, [w.float() for w in weights], [b.float() for b in biases], dm))
    gradients = [torch.autograd.grad(skaf_descriptor(*a[:3], backend="cpu"), a[3], dm) for a in (low, full)]
    for one, other, of in zip(*gradients, full[3], strict=True):
        assert other.dtype == of.dtype
        assert torch.equal(one, other.to(one.dtype))


@compiled_only
@pytest.mark.parametrize("kernels", [(3,), (3, 5)], ids=str)
def test_gradcheck(kernels: tuple[int, ...]) -> None:
    x, weights, biases, _ = arguments((2, 3, 4, 5), torch.float64, kernels, outputs=2)
    k = len(kernels)

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        return skaf_descriptor(x, parameters[:k], parameters[k:], backend="cpu")

    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in (x, *weights, *biases)])


def all_results(inputs: Inputs) -> list[Tensor]:
    x, weights, biases, all_ = leaves(inputs)
    m = skaf_descriptor(x, weights, biases, backend="cpu")
    return [m.detach(), *torch.autograd.grad(m, all_, inputs[3])]


@compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_do_not_change_a_bit(dtype: torch.dtype) -> None:
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(all_results(arguments((3, 24, 41, 37), dtype)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@compiled_only
def test_every_number_is_written() -> None:
    """In deterministic mode torch fills new memory with NaN; nothing of it may be left or used."""
    inputs = arguments((2, 7, 11, 13), torch.float32)
    expected = all_results(inputs)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan().all()
        results = all_results(inputs)
    finally:
        torch.use_deterministic_algorithms(False)
    for one, other in zip(results, expected, strict=True):
        assert torch.equal(one, other)
