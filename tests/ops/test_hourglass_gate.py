"""hourglass_gate against the reference in float64, and its promises beside the values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aminet_fast.ops import hourglass_gate
from aminet_fast.ops._library import DTYPES
from aminet_fast.reference.frm import hourglass_gate_ref
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops.hourglass_gate_inputs import BACKENDS, SHAPES, arguments, check, compiled_only, stored


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_reference_values_and_gradients(shape: tuple[int, ...]) -> None:
    *inputs, dy = arguments(shape, torch.float32)
    check(stored(inputs, LAYOUTS), dy, "reference")


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cpu_values_and_gradients(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    *inputs, dy = arguments(shape, dtype)
    check(stored(inputs, [layout]), laid_out(dy, layout), "cpu")


@compiled_only
@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, n) for n in (3, 40, 20, 70, 40)]),
    layouts=st.lists(st.sampled_from(LAYOUTS), min_size=1, max_size=5),
    slope=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_any_shape(shape: tuple[int, ...], layouts: list[str], slope: float) -> None:
    *inputs, dy = arguments(shape, torch.float64)
    check(stored(inputs, layouts), laid_out(dy, layouts[0]), "cpu", slope)


@compiled_only
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_is_written(shape: tuple[int, ...]) -> None:
    *inputs, dy = arguments(shape, torch.float32)
    torch.use_deterministic_algorithms(True)  # also fills new memory with NaN
    try:
        assert torch.empty(3).isnan().all()
        check(stored(inputs, ["channels_last"]), dy, "cpu")
    finally:
        torch.use_deterministic_algorithms(False)


@compiled_only
def test_threads_do_not_change_a_bit() -> None:
    *inputs, dy = arguments((3, 24, 61, 67, 40), torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            ours = [t.detach().requires_grad_() for t in stored(inputs, ["channels_last"])]
            y = hourglass_gate(*ours, backend="cpu")
            results.append((y, *torch.autograd.grad(y, ours, dy)))
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


@compiled_only
@pytest.mark.parametrize("need", [*range(12), (0, 1), (4, 7, 10), (2, 3, 11)], ids=str)
def test_only_what_is_needed(need: int | tuple[int, ...]) -> None:
    *inputs, dy = arguments(SHAPES[3], torch.float32)
    wanted = (need,) if isinstance(need, int) else need
    everything = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(hourglass_gate(*everything, backend="cpu"), everything, dy)
    some = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    hourglass_gate(*some, backend="cpu").backward(dy)
    for i, tensor in enumerate(some):
        assert (tensor.grad is not None) == (i in wanted)
        assert tensor.grad is None or torch.equal(tensor.grad, expected[i])


@compiled_only
def test_gradcheck() -> None:
    inputs = arguments((2, 2, 3, 4, 3), torch.float64)[:12]
    assert torch.autograd.gradcheck(hourglass_gate, [t.requires_grad_() for t in inputs])


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck(layout: str) -> None:
    *inputs, dy = arguments((2, 5, 3, 4, 7), torch.float32)
    inputs = stored(inputs, [layout])
    _, gate = torch.ops.aminet_fast.hourglass_gate_fwd(*inputs, 0.2)
    torch.library.opcheck(torch.ops.aminet_fast.hourglass_gate_bwd, (dy, *inputs[1:11], gate, 0.2))
    needing = [t.detach().requires_grad_() for t in inputs]
    torch.library.opcheck(torch.ops.aminet_fast.hourglass_gate_fwd, (*needing, 0.2))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low", [(), (1, 4, 7), (0, 1, 4, 7), (4, 7)], ids=str)
def test_autocast(low: tuple[int, ...], backend: str) -> None:
    *inputs, dy = arguments(SHAPES[4], torch.float32)
    inputs = [(t.bfloat16() if i in low else t).requires_grad_() for i, t in enumerate(inputs)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = hourglass_gate(*inputs, backend=backend)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), hourglass_gate_ref(*[t.float() for t in inputs]), rtol=3e-2, atol=6e-2)
    gradients = torch.autograd.grad(y, inputs, dy.to(y.dtype))
    assert [g.dtype for g in gradients] == [t.dtype for t in inputs]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole_and_once(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(hourglass_gate, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    sizes = [(4, 24, 5, 9, 13), (4, 24, 5, 9, 13)]
    sizes = [(4, 24, 5, 9, 13), (5, 24, 12, 8, 13), (6, 24, 7, 15, 13)] if dynamic else sizes
    for seed, size in enumerate(sizes):
        *inputs, dy = arguments(size, torch.float32, seed)
        one, other = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            y = compiled(*one, backend=backend)
        expected = hourglass_gate(*other, backend=backend)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
        found, wanted = torch.autograd.grad(y, one, dy), torch.autograd.grad(expected, other, dy)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@compiled_only
def test_second_derivative_is_refused() -> None:
    inputs = [t.requires_grad_() for t in arguments((1, 3, 2, 2, 2), torch.float64)[:12]]
    (dx,) = torch.autograd.grad(hourglass_gate(*inputs, backend="cpu").square().sum(), inputs[1], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"hourglass_gate has no second derivative.*reference"):
        dx.sum().backward()


def test_refusals_name_the_argument() -> None:
    good = arguments((2, 5, 3, 4, 7), torch.float32)[:12]
    for error, match, at, bad in [
        (TypeError, r"z must be a tensor, got list", 0, [1.0]),
        (ValueError, r"z must be \[2, 5, 3, 4\] beside x.*\[2, 5, 3, 3\]", 0, good[0][..., 1:]),
        (TypeError, r"z must have x's dtype torch.float32.*bfloat16", 0, good[0].bfloat16()),
        (TypeError, r"x must be one of float32.*int64", 1, good[1].long()),
        (ValueError, r"x_scale must be \[5\]", 2, good[2][1:]),
        (ValueError, r"a must be \[2, 7, 3, 4\]", 4, good[4][:1]),
        (ValueError, r"a is on meta and x on cpu", 4, good[4].to("meta")),
        (ValueError, r"b must be \[2, 7, 3, 4\].*\[2, 6, 3, 4\]", 7, good[7][:, 1:]),
        (TypeError, r"b_shift must have x's dtype.*float64", 9, good[9].double()),
        (ValueError, r"weight must be \[1, 7, 3, 3\].*\[1, 7, 3, 2\]", 10, good[10][..., 1:]),
        (TypeError, r"weight must be a tensor, got NoneType", 10, None),
        (ValueError, r"bias must be \[1\]", 11, good[11][:0]),
        (ValueError, r"bias is on meta", 11, good[11].to("meta")),
    ]:
        with pytest.raises(error, match=match):
            hourglass_gate(*good[:at], bad, *good[at + 1 :])  # type: ignore[arg-type]
