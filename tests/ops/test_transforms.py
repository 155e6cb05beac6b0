"""Who does not see the operators has the plain form's numbers: forward mode, functorch, tracing, shapes alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from aminet_fast import ops
from aminet_fast.ops import backends, layer_norm2d
from tests.ops.autocast_calls import OPERATORS, Operator
from tests.ops.layer_norm2d_inputs import compiled_only

Function = Callable[..., tuple[Tensor, ...]]


def _affine(i: Sequence[Tensor], p: Sequence[Tensor], backend: str | None) -> Sequence[Tensor]:
    pairs = ops.batch_norm_affine(*p[:3], p[3].square() + 0.1, 1e-5, 2, backend)  # type: ignore[call-arg]
    return [t for pair in pairs for t in pair]


CALLS = {**OPERATORS, "batch_norm_affine": Operator([], [(5,)] * 4, _affine, outputs=0)}
NAMES = pytest.mark.parametrize("name", CALLS)


def call(name: str, backend: str | None) -> Function:
    """The operator as a function of all its tensors."""
    images = len(CALLS[name].images)
    return lambda *t: tuple(CALLS[name].function(t[:images], t[images:], backend))


def drawn(name: str) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Its arguments, and tangents for them, in float64."""
    both = [CALLS[name].drawn(torch.float64, seed) for seed in (0, 1)]
    first, second = (tuple(t.detach() for t in [*images, *parameters]) for images, parameters in both)
    return first, second


def loss(f: Function) -> Callable[..., Tensor]:
    return lambda *t: sum((y.square().sum() for y in f(*t)), torch.zeros(()))


def tangents(grad_enabled: bool, f: Function, given: tuple[Tensor, ...], along: tuple[Tensor, ...]) -> list[Any]:
    with forward_ad.dual_level(), torch.set_grad_enabled(grad_enabled):
        outputs = f(*map(forward_ad.make_dual, given, along))
        return [forward_ad.unpack_dual(y).tangent for y in outputs]


def everywhere(f: Function, given: tuple[Tensor, ...]) -> Callable[..., Any]:
    return grad(loss(f), tuple(range(len(given))))


def slices(given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.stack([t, 0.9 * t]) for t in given)


WAYS: dict[str, Callable[[Function, Any, Any], Any]] = {
    "jvp": lambda f, given, along: jvp(f, given, along),
    "make_dual under no_grad": partial(tangents, False),
    "grad": lambda f, given, along: everywhere(f, given)(*given),
    "reverse over reverse": lambda f, given, along: vjp(everywhere(f, given), *given)[1](along),
    "vmap": lambda f, given, along: vmap(f)(*slices(given)),
    "gradients for each sample": lambda f, given, along: vmap(everywhere(f, given))(*slices(given)),
    "functionalize": lambda f, given, along: functionalize(f)(*given),
}


@compiled_only
@NAMES
@pytest.mark.parametrize("way", WAYS)
def test_transforms_find_the_plain_form(name: str, way: str) -> None:
    given, along = drawn(name)
    found, expected = (WAYS[way](call(name, backend), given, along) for backend in ("cpu", "reference"))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@compiled_only
@NAMES
def test_a_tangent_is_the_kernels_own_difference(name: str) -> None:
    given, along = drawn(name)
    f, step = call(name, "cpu"), 1e-6
    after, before = (f(*(t + s * d for t, d in zip(given, along, strict=True))) for s in (step, -step))
    for tangent, a, b in zip(jvp(f, given, along)[1], after, before, strict=True):
        torch.testing.assert_close(tangent, (a - b) / (2 * step), rtol=1e-5, atol=1e-5 * tangent.abs().max().item())


@compiled_only
def test_jacobians_and_hessians() -> None:
    given, _ = drawn("layer_norm2d")
    x, weight, bias = given[0][:1, :4, :3, :2], given[1][:4], given[2][:4]
    of: Any
    for of in (
        jacrev,
        jacfwd,
        lambda f: hessian(lambda t: f(t).pow(3).sum()),
        lambda f: lambda t: linearize(f, t)[1](t),
    ):
        found, expected = (
            of(partial(layer_norm2d, weight=weight, bias=bias, backend=backend))(x) for backend in ("cpu", "reference")
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@compiled_only
@NAMES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_vmap_of_a_backward_pass_whose_forward_it_did_not_see(name: str, layout: torch.memory_format) -> None:
    """is_grads_batched, jacobian(vectorize=True), vmap(autograd.grad): a call for each slice, bit by bit."""
    given = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in drawn(name)[0]]
    leaves = [t.requires_grad_() for t in given]
    outputs = call(name, "cpu")(*leaves)
    assert {type(y.grad_fn).__name__ for y in outputs} == {"DirectBackward"}
    incoming = [torch.randn(3, *y.shape, dtype=y.dtype) for y in outputs]

    def backward(*gradients: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(outputs, leaves, gradients, retain_graph=True)

    expected = tuple(map(torch.stack, zip(*(backward(*(g[i] for g in incoming)) for i in range(3)), strict=True)))
    batched = torch.autograd.grad(outputs, leaves, incoming, retain_graph=True, is_grads_batched=True)
    nested = vmap(vmap(backward))(*(g[None] for g in incoming))
    for found in (batched, vmap(backward)(*incoming), tuple(g[0] for g in nested)):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@compiled_only
def test_a_vectorized_jacobian() -> None:
    x, weight, bias = (t.detach() for t in (*drawn("layer_norm2d")[0],))
    x = x[:1, :, :2, :2]
    ways: Any = ({}, {"vectorize": True}, {"vectorize": True, "strategy": "forward-mode"})
    f = partial(layer_norm2d, weight=weight, bias=bias, backend="cpu")
    first, *others = (torch.autograd.functional.jacobian(f, x, **way) for way in ways)
    for other in others:
        torch.testing.assert_close(other, first)


def operator_inputs() -> tuple[Tensor, Tensor, Tensor, float]:
    x, weight, bias = drawn("layer_norm2d")[0]
    return x, weight, bias, 1e-5


@compiled_only
def test_an_operator_in_a_program_drops_no_derivative() -> None:
    """It was there before the transform: nobody asks which form is to run."""
    x, *others = operator_inputs()
    operator = torch.ops.aminet_fast.layer_norm2d_fwd
    program = make_fx(lambda t: operator(t, *others)[0])(x)
    wanted = "layer_norm2d_fwd has no forward-mode derivative and no functorch gradient.*export it with backend='ref"
    with pytest.raises(NotImplementedError, match=wanted):
        jvp(program, (x,), (x,))
    with pytest.raises(NotImplementedError, match=wanted):
        tangents(False, lambda t: (program(t),), (x,), (x,))
    with pytest.raises(NotImplementedError, match=wanted):
        grad(lambda t: program(t).sum())(x)
    images = torch.stack([x, 2 * x, -x])
    for dim in (0, 1):
        torch.testing.assert_close(
            vmap(program, in_dims=dim)(images.movedim(0, dim)), torch.stack([program(t) for t in images])
        )
    assert vmap(program)(images[:0]).shape == (0, *x.shape)
    with forward_ad.dual_level():  # where nothing has a tangent
        torch.testing.assert_close(program(x), layer_norm2d(x, *others))


@compiled_only
def test_compiled_functions() -> None:
    x, weight, bias, _ = operator_inputs()

    def f(t: Tensor) -> Tensor:
        return layer_norm2d(t, weight, bias, backend="cpu").pow(3)

    def total(t: Tensor) -> Tensor:
        return f(t).sum()

    expected = grad(lambda t: layer_norm2d(t, weight, bias, backend="reference").pow(3).sum())(x)
    torch.testing.assert_close(torch.compile(grad(total), backend="aot_eager", fullgraph=True)(x), expected)
    compiled = torch.compile(f, backend="aot_eager")
    compiled(x)  # its graph holds the operator
    with pytest.raises(NotImplementedError, match="call the model uncompiled"):
        tangents(True, lambda t: (compiled(t),), (x,), (x,))
    torch.testing.assert_close(jvp(compiled, (x,), (x,))[1], jvp(f, (x,), (x,))[1])
    torch.testing.assert_close(grad(lambda t: compiled(t).sum())(x), expected)


@compiled_only
def test_what_was_chosen_once_is_not_kept() -> None:
    """torch.compile takes frames by themselves after a graph break, and may keep what they returned."""
    choose = partial(torch.compile(backends.choose, backend="eager"), "skaf_gate", "cpu", "cpu")
    found = [choose()]

    def look(x: Tensor) -> Tensor:
        found.append(choose())
        return x * 2

    with forward_ad.dual_level():
        look(torch.ones(3))
    vmap(look)(torch.ones(3))
    look(torch.ones(3))
    assert found == ["cpu", "reference", "reference", "cpu"]


@compiled_only
@NAMES
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_traced_program_is_plain_and_right(name: str) -> None:
    given, others = drawn(name)
    for t in given:
        t.requires_grad_()
    traced = torch.jit.trace(call(name, "cpu"), given, check_trace=False)
    assert "aminet_fast::" not in str(traced.inlined_graph)
    traced.save_to_buffer()  # which refuses Python functions
    torch.testing.assert_close(traced(*others), call(name, "reference")(*others), rtol=1e-9, atol=1e-9)


@NAMES
@pytest.mark.parametrize("backend", [None, "reference", "cpu"])
@pytest.mark.parametrize("autocast", [False, True])
def test_shapes_alone(name: str, backend: str | None, autocast: bool, caplog: pytest.LogCaptureFixture) -> None:
    given = drawn(name)[0]
    with caplog.at_level(logging.WARNING), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = call(name, backend)(*(t.to("meta") for t in given))
    for y, expected in zip(found, call(name, "reference")(*given), strict=True):
        assert (y.device.type, y.shape, y.stride(), y.dtype) == ("meta", expected.shape, expected.stride(), y.dtype)
    assert not caplog.records


def test_who_chooses_keeps_the_rule(caplog: pytest.LogCaptureFixture) -> None:
    """For every operator, whatever is asked for; and a name that is unknown stays so."""
    seen: list[set[str]] = []

    def look(x: Tensor) -> Tensor:
        seen.append({backends.choose(name, "cpu", "cpu", x.dtype) for name in backends.operators()})
        with pytest.raises(ValueError, match="backend='warp' is unknown"):
            backends.choose("skaf_gate", "cpu", "warp")
        return x * 2

    x = torch.ones(3)
    with caplog.at_level(logging.WARNING):
        jvp(look, (x,), (x,))
        vmap(look)(x)
        grad(lambda t: look(t).sum())(x)
        with forward_ad.dual_level():
            look(x)
        torch.jit.trace(look, x, check_trace=False)
    assert seen == [{"reference"}] * 5
    assert not caplog.records
