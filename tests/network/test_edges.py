"""The network's edges: one cast of their weights under autocast, and a pixel shuffle that keeps channels_last."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from aminet_fast import AMINet, AMINetConfig, accelerate, decelerate, freeze, reference
from aminet_fast.network import casting, edges

TINY = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=6)
HALF = torch.bfloat16


@pytest.fixture
def casts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors each cast took; on the CPU too, where nothing is cast at once by itself."""
    taken: list[int] = []
    cast = casting._all_to

    def noted(tensors: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        taken.append(len(tensors))
        return cast(tensors, dtype)

    monkeypatch.setattr(casting, "DEVICES", {"cpu"})
    monkeypatch.setattr(casting, "_all_to", noted)
    return taken


@pytest.fixture
def model() -> AMINet:
    torch.manual_seed(0)
    return AMINet(TINY)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def stepped(model: nn.Module, x: Tensor, run: Callable[..., Tensor] | None = None) -> dict[str, Tensor]:
    """Gradients of one step under autocast, by parameter; and the output."""
    with torch.autocast("cpu", HALF):
        y = model(x) if run is None else run(model, x)
    model.zero_grad()
    y.float().square().mean().backward()
    return {"y": y.detach()} | {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_steps(model: nn.Module, x: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    monkeypatch.setattr(casting, "DEVICES", set())
    found = [learnt(model, x) for _ in range(steps)]
    monkeypatch.setattr(casting, "DEVICES", {"cpu"})
    return found


def learnt(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found = stepped(model, x)
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    return found


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
        assert value.dtype == other[name].dtype


def test_steps_are_those_of_plain_autocast(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    wanted = plain_steps(copy.deepcopy(model), x, 2, monkeypatch)
    assert not casts
    found = [learnt(model, x) for _ in range(2)]
    for one, other in zip(found, wanted, strict=True):
        assert_same(one, other)
    assert not torch.equal(found[0]["y"], found[1]["y"])  # of the second step the weights are others
    assert len(wanted[0]) == 1 + len(list(model.parameters()))
    # Weights and biases of head, tail, three steps down and up and three reductions, and three slopes of PReLU.
    assert casts == [25] * 4


def test_only_what_learns_has_a_gradient(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    model.head.weight.requires_grad_(False)
    wanted = plain_steps(copy.deepcopy(model), x, 1, monkeypatch)[0]
    assert_same(learnt(model, x), wanted)
    assert model.head.weight.grad is None
    assert model.head.bias.grad is not None
    assert casts == [25, 24]


def test_checkpoints_do_not_notice(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    wanted = plain_steps(copy.deepcopy(model), x, 1, monkeypatch)[0]
    x.requires_grad_(True)
    again = stepped(model, x, lambda m, x: checkpoint(m, x, use_reentrant=False))
    running = ("mean", "var")  # recomputing a batch norm moves its statistics, not its gradients
    assert_same({n: v for n, v in again.items() if not n.endswith(running)}, wanted)
    up = copy.deepcopy(model).train()
    plain = up.up[0].forward
    up.up[0].forward = lambda f: checkpoint(plain, f, use_reentrant=False)
    assert_same(stepped(up, x), wanted)


def test_without_gradients_and_then_with(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    model.eval()
    wanted = plain_steps(copy.deepcopy(model), x, 1, monkeypatch)[0]
    with torch.no_grad(), torch.autocast("cpu", HALF):
        assert torch.equal(model(x), wanted["y"])
    with torch.autocast("cpu", HALF):
        with torch.no_grad():
            model(x)
        y = model(x)
    y.float().square().mean().backward()
    assert torch.equal(model.head.weight.grad, wanted["head.weight"])
    with torch.no_grad(), torch.autocast("cpu", HALF):
        assert torch.equal(freeze(model)(x), wanted["y"])


def test_hooks_and_other_parameters_are_as_ever(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    class Doubled(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return 2 * w

    class Other(nn.Parameter):
        pass

    seen = []
    parametrize.register_parametrization(model.tail, "weight", Doubled())
    model.down[0].register_forward_hook(lambda module, given, y: seen.append(y.dtype))
    model.down[1].weight = Other(model.down[1].weight.detach())
    wanted = plain_steps(copy.deepcopy(model), x, 1, monkeypatch)[0]
    assert_same(learnt(model, x), wanted)
    assert seen == [HALF, HALF]
    assert casts == [22, 22]


def test_autocast_alone_where_somebody_looks_on(model: AMINet, x: Tensor, casts: list[int]) -> None:
    model.eval()(x)  # no autocast
    with torch.autocast("cpu", HALF), torch.no_grad():
        wanted = model(x)
        assert casts == [25]
        exported = torch.export.export(model, (x,)).module()
        torch.testing.assert_close(exported(x), wanted, rtol=2e-2, atol=2e-2)
        torch.func.functional_call(accelerate(reference.AMINet(TINY)), dict(model.state_dict()), (x,))
    assert casts == [25]


def test_the_weights_of_one_pass_do_not_reach_another(casts: list[int]) -> None:
    p = nn.Parameter(torch.ones(3))
    with torch.autocast("cpu", HALF):
        copies = casting.autocast_copies([p, None], torch.ones(1))
    assert casting.copy_of(p) is p
    with torch.autocast("cpu", HALF), casting.using(copies):
        assert casting.copy_of(p).dtype == HALF
        with casting.using({}):
            assert casting.copy_of(p) is p
        assert casting.copy_of(p).dtype == HALF
        assert casting.copy_of(None) is None
        for other in (torch.autocast("cpu", torch.float16), torch.autocast("cpu", enabled=False)):
            with other:
                assert casting.copy_of(p) is p
    with torch.autocast("cpu", HALF):
        assert casting.copy_of(p) is p


def test_second_derivatives(casts: list[int]) -> None:
    p = nn.Parameter(torch.tensor([3.0]))
    with torch.autocast("cpu", HALF):
        half = casting.autocast_copies([p], p)[id(p)]
    (first,) = torch.autograd.grad(half.square(), p, create_graph=True)
    (second,) = torch.autograd.grad(first, p)
    assert (first.item(), second.item()) == (6.0, 2.0)


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_shuffled_is_pixel_shuffle(layout: torch.memory_format) -> None:
    x = torch.randn(2, 24, 3, 5).contiguous(memory_format=layout).requires_grad_()
    y, wanted = edges.shuffled(x, 2), F.pixel_shuffle(x, 2)
    assert torch.equal(y, wanted)
    assert y.is_contiguous(memory_format=torch.channels_last)
    incoming = torch.randn_like(wanted).contiguous(memory_format=torch.channels_last)
    one, other = (torch.autograd.grad(o, x, incoming)[0] for o in (y, wanted))
    assert torch.equal(one, other)
    assert one.is_contiguous(memory_format=torch.channels_last)


def test_ups_are_found_and_given_back() -> None:
    nearest = dataclasses.replace(TINY, up="nearest")
    for config, kind in ((TINY, edges.FastUp), (nearest, nn.Sequential)):
        model = accelerate(reference.AMINet(config))
        assert {type(up) for up in model.up} == {kind}
        assert type(model.head) is edges.FastConv2d
        assert {type(up) for up in accelerate(model, edges=False).up} == {nn.Sequential}
        assert {type(m) for m in decelerate(accelerate(model)).modules()}.isdisjoint({edges.FastConv2d, edges.FastUp})


def test_a_slice_of_an_up_and_one_that_is_longer(model: AMINet, x: Tensor) -> None:
    up = model.up[0]
    z = torch.randn(2, up[0].in_channels, 4, 4)
    torch.testing.assert_close(up[:2](z), up[1](up[0](z)), rtol=0, atol=0)
    expected = torch.sigmoid(up(z))
    up.append(nn.Sigmoid())
    torch.testing.assert_close(up(z), expected, rtol=0, atol=0)


class InFloat32(nn.Module):
    """A convolution that its user runs without autocast."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.conv(x.float())


def test_no_copy_where_autocast_is_off_inside(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    model.tail = InFloat32(model.tail)
    assert type(model.tail.conv) is edges.FastConv2d
    (expected,) = plain_steps(copy.deepcopy(model), x, 1, monkeypatch)
    assert_same(learnt(model, x), expected)
    assert casts


def test_a_weight_that_a_hook_makes_is_what_runs(model: AMINet, x: Tensor, casts: list[int], monkeypatch) -> None:
    def scale(module: nn.Module, _: object) -> None:
        with torch.no_grad():
            module.weight.mul_(3)

    model.head.register_forward_pre_hook(scale)
    (expected,) = plain_steps(copy.deepcopy(model), x, 1, monkeypatch)
    assert_same(learnt(model, x), expected)
    assert casts
