"""Autocast's rule for every operator: images keep its dtype, statistics and parameters' gradients are float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from aminet_fast.ops import backends
from tests.ops.autocast_calls import OPERATORS, kept_for_backward
from tests.ops.layer_norm2d_inputs import BACKENDS, compiled_only

LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
NAMES = pytest.mark.parametrize("name", OPERATORS)


def test_every_operator_is_here() -> None:
    vectors_alone = {"batch_norm_affine"}  # which autocast does not concern
    assert sorted({*OPERATORS, *vectors_alone}) == backends.operators()


def rounded(t: Tensor, low: torch.dtype) -> bool:
    """Whether every number is one of that dtype's."""
    return torch.equal(t, t.to(low).to(t.dtype))


@NAMES
@LOW
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("enters", [torch.float32, torch.bfloat16], ids=str)
def test_images_and_their_gradients_have_autocasts_dtype(
    name: str, low: torch.dtype, backend: str, enters: torch.dtype
) -> None:
    operator = OPERATORS[name]
    images, parameters = operator.drawn(enters)
    with kept_for_backward() as kept, torch.autocast("cpu", low):
        outputs = operator.function(images, parameters, backend)
    dtypes = [low] * operator.outputs + [torch.float32] * 2
    assert [y.dtype for y in outputs] == dtypes[: len(outputs)]
    if backend == "cpu":  # the reference is plain PyTorch, and keeps what that keeps
        assert {t.dtype for t in operator.images_in(kept)} == {low}
    gradients = torch.autograd.grad(outputs, [*images, *parameters], [torch.randn_like(y) for y in outputs])
    assert [g.dtype for g in gradients] == [enters] * len(images) + [torch.float32] * len(parameters)
    assert all(rounded(g, low) for g in gradients[: len(images)])
    assert all(g.isfinite().all() for g in gradients)
    if backend == "cpu":
        # Each is a sum in float32; but torch's own convolution, which norm_act_conv calls here, rounds its weight's.
        unrounded = [g for g in gradients[len(images) :] if name != "norm_act_conv" or g.dim() < 4]
        assert not [g.shape for g in unrounded if rounded(g, low)]


@NAMES
@pytest.mark.parametrize("backend", BACKENDS)
def test_float64_is_left_alone(name: str, backend: str) -> None:
    images, parameters = OPERATORS[name].drawn(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = OPERATORS[name].function(images, parameters, backend)
    for y, expected in zip(outputs, OPERATORS[name].function(images, parameters, backend), strict=True):
        assert y.dtype == torch.float64
        torch.testing.assert_close(y, expected)


@compiled_only
@NAMES
@LOW
def test_a_float32_image_is_cast_as_it_enters(name: str, low: torch.dtype) -> None:
    """The same bits as of an image that was cast before; and so is a gradient that comes back in float32."""
    images, parameters = OPERATORS[name].drawn(torch.float32)
    given = [*images, *parameters]
    with torch.autocast("cpu", low):
        outputs = OPERATORS[name].function(images, parameters, "cpu")
    before = [t.detach().to(low).requires_grad_() for t in images]
    expected = OPERATORS[name].function(before, parameters, "cpu")
    for y, want in zip(outputs, expected, strict=True):
        assert torch.equal(y, want)
    incoming = [torch.randn(y.shape) for y in outputs]
    found = torch.autograd.grad(outputs, given, incoming, retain_graph=True)
    lowered = [dy.to(y.dtype) for y, dy in zip(outputs, incoming, strict=True)]
    for others, leaves in ((outputs, given), (expected, [*before, *parameters])):
        again = torch.autograd.grad(others, leaves, lowered)
        assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(found, again, strict=True))


@compiled_only
@NAMES
@LOW
def test_the_operator_itself_casts(name: str, low: torch.dtype) -> None:
    """A program that was traced without autocast, and runs under it: no public function is called any more."""
    images, parameters = OPERATORS[name].drawn(torch.float32)
    with torch.no_grad():
        traced = make_fx(lambda i, p: list(OPERATORS[name].function(i, p, "cpu")))(images, parameters)
    assert f"aminet_fast.{name}_fwd" in traced.code
    with torch.no_grad(), torch.autocast("cpu", low):
        outputs = traced(images, parameters)
        expected = OPERATORS[name].function(images, parameters, "cpu")
    for y, want in zip(outputs, expected, strict=True):
        assert y.dtype == want.dtype
        assert torch.equal(y, want)


@NAMES
@LOW
def test_the_same_on_cuda_devices(name: str, low: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes and dtypes alone, so that no GPU is needed."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    images, parameters = OPERATORS[name].drawn(torch.float32)
    with FakeTensorMode():
        images, parameters = (
            [torch.empty(t.shape, device="cuda").requires_grad_() for t in tensors] for tensors in (images, parameters)
        )
        with kept_for_backward() as kept, torch.autocast("cuda", low):
            outputs = OPERATORS[name].function(images, parameters, None)
    assert [y.dtype for y in outputs] == ([low] * OPERATORS[name].outputs + [torch.float32] * 2)[: len(outputs)]
    assert {t.dtype for t in OPERATORS[name].images_in(kept)} == {low}
