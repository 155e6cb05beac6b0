"""The network where operators are not seen: forward mode, functorch, tracing, and shapes alone."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from aminet_fast import AMINet, AMINetConfig, freeze
from aminet_fast.network import casting

TINY = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=6)
traces = pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning"
)


def networks(training: bool = False) -> tuple[AMINet, AMINet]:
    """Ours and the reference, of the same weights, in float64."""
    torch.manual_seed(0)
    ours = AMINet(TINY).double().train(training)
    plain = AMINet(TINY, backend="reference").double().train(training)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def faces(count: int = 1, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(count, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def tangent(net: nn.Module, x: Tensor, along: Tensor) -> Tensor:
    with torch.no_grad(), forward_ad.dual_level():
        return forward_ad.unpack_dual(net(forward_ad.make_dual(x, along))).tangent


def of_each_sample(net: nn.Module) -> Any:
    def error(p: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(net, p, (x[None],)).square().sum()

    return vmap(grad(error), (None, 0))({k: p.detach() for k, p in net.named_parameters()}, faces(2))


def of_an_ensemble(net: nn.Module) -> Tensor:
    members = [net, copy.deepcopy(net)]
    with torch.no_grad():
        members[1].load_state_dict({k: 0.9 * t if t.is_floating_point() else t for k, t in net.state_dict().items()})
    return vmap(lambda p, b, x: functional_call(net, (p, b), (x,)), (0, 0, None))(*stack_module_state(members), faces())


def batched(net: Callable[[Tensor], Tensor], parameters: Iterable[Tensor] = ()) -> Any:
    x = faces().requires_grad_()
    return torch.autograd.grad(net(x), [x, *parameters], torch.stack([faces(1, 1), faces(1, 2)]), is_grads_batched=True)


WAYS: dict[str, Callable[[nn.Module], Any]] = {
    "jvp": lambda net: jvp(net, (faces(),), (faces(1, 1),)),
    "make_dual": lambda net: tangent(net, faces(), faces(1, 1)),
    "second derivative": lambda net: jvp(grad(lambda x: net(x).square().sum()), (faces(),), (faces(1, 1),)),
    "gradients for each sample": of_each_sample,
    "ensemble": of_an_ensemble,
    "functional_call": lambda net: functional_call(net, {k: 0.9 * p for k, p in net.named_parameters()}, (faces(),)),
    "batched gradients": lambda net: batched(net, net.parameters()),
    "batched gradients of a checkpoint": lambda net: batched(lambda x: checkpoint(net, x, use_reentrant=False)),
}


@pytest.mark.parametrize("way", WAYS)
def test_transforms_give_the_references_numbers(way: str) -> None:
    found, expected = map(WAYS[way], networks())
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)


def test_a_tangent_is_the_fast_networks_own_difference() -> None:
    net, x, along, step = networks()[0], faces(), faces(1, 1), 1e-6
    with torch.no_grad():
        difference = (net(x + step * along) - net(x - step * along)) / (2 * step)
    torch.testing.assert_close(tangent(net, x, along), difference, rtol=1e-6, atol=1e-7)


def test_running_statistics_move_as_the_references() -> None:
    both = networks(training=True)
    found, expected = (tangent(net, faces(2), faces(2, 1)) for net in both)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    ours, plain = (dict(net.named_buffers()) for net in both)
    torch.testing.assert_close(ours, plain)
    for net in both:  # which no transform may move
        with pytest.raises(RuntimeError, match="would mutate a captured Tensor"):
            jvp(net, (faces(2),), (faces(2, 1),))


def test_under_autocast_no_cast_of_the_weights_drops_a_tangent(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA devices the edges take copies, by an autograd function that knows no forward mode."""
    monkeypatch.setattr(casting, "DEVICES", {"cpu"})
    weight = nn.Parameter(torch.ones(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert casting.autocast_copies([weight], weight) is not None
        with forward_ad.dual_level():
            assert casting.autocast_copies([weight], weight) is None


@traces
def test_traced_with_gradients_enabled() -> None:
    """In training, as TensorBoard's add_graph does, and called with another input; it needs nothing of this package."""
    ours, plain = networks(training=True)
    traced = torch.jit.trace(ours, (faces(2),), strict=False, check_trace=False)
    assert "aminet_fast::" not in str(traced.inlined_graph)
    traced.save_to_buffer()  # which refuses Python functions
    with torch.no_grad(), torch.jit.optimized_execution(False):
        plain(faces(2))
        torch.testing.assert_close(traced(faces(2, 1)), plain(faces(2, 1)), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(dict(ours.named_buffers()), dict(plain.named_buffers()))


def test_scripting_is_refused_in_one_line() -> None:
    wanted = r"^torch\.jit\.script cannot compile an AMINet: use torch\.jit\.trace\(model\.eval\(\), x\).*$"
    for model in (AMINet(TINY), AMINet(TINY, backend="reference"), nn.Sequential(AMINet(TINY))):
        with pytest.raises(NotImplementedError, match=wanted):
            torch.jit.script(model)


def test_shapes_alone(caplog: pytest.LogCaptureFixture) -> None:
    with torch.device("meta"):
        net = AMINet(TINY)
    x = torch.empty(2, 3, 16, 32, device="meta")
    with caplog.at_level(logging.WARNING):
        first = net(x)
        first.sum().backward()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            second = net.eval()(x)
        with torch.no_grad(), torch.device("meta"):
            third = freeze(net)(torch.empty(2, 3, 16, 32))
    assert {(y.device.type, y.shape, y.dtype) for y in (first, second, third)} == {("meta", x.shape, x.dtype)}
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in net.parameters())
    assert not caplog.records
