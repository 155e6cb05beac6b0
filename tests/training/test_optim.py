"""Learning rate, Adam's moments and the average of the weights, each alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aminet_fast.training.optim import Shadow, build_optimizer, learning_rate, plain_state, restore
from tests.training.tiny import unequal


def test_cosine_with_warmup() -> None:
    def rate(step: int) -> float:
        return learning_rate(step, 12, lr=1.0, schedule="cosine", warmup_steps=4)

    assert [rate(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate(4) == 1.0
    assert rate(8) == pytest.approx(0.5)
    assert rate(11) == pytest.approx(0.0380602337)


def test_a_constant_rate() -> None:
    assert {learning_rate(step, 84_375, lr=2e-4) for step in (0, 1, 84_374)} == {2e-4}


@pytest.mark.parametrize("before", [torch.channels_last, torch.contiguous_format])
def test_moments_follow_their_parameters_into_another_layout(before: torch.memory_format) -> None:
    """The fused kernel pairs parameters and moments by where they lie, not by index."""
    betas = (0.8, 0.9)
    after = torch.contiguous_format if before == torch.channels_last else torch.channels_last

    def network(layout: torch.memory_format) -> torch.nn.Conv2d:
        torch.manual_seed(0)
        return torch.nn.Conv2d(4, 8, 3).to(memory_format=layout)

    def step(net: torch.nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.parameters():
            parameter.grad = torch.empty_like(parameter).copy_(torch.randn(parameter.shape, generator=generator))
        optimizer.step()

    one, other = network(before), network(after)
    first, second = (build_optimizer(net, 2e-4, betas) for net in (one, other))
    step(one, first, 1)
    other.load_state_dict(one.state_dict())
    restore(second, copy.deepcopy(plain_state(first)), betas)
    step(one, first, 2)
    step(other, second, 2)
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_average_is_the_recursion_and_copies_buffers() -> None:
    model = small()
    shadow = Shadow(model, 0.9)
    wanted = model[0].weight.detach().double()
    for step in range(1, 40):
        with torch.no_grad():
            model[0].weight.normal_()
            model(torch.randn(2, 1, 8, 8))
        shadow.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach().double()
    averaged = shadow.model()
    torch.testing.assert_close(averaged[0].weight.double(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(averaged[1].running_mean, model[1].running_mean)
    assert averaged[1].num_batches_tracked == 39
    assert not averaged.training
    assert not any(p.requires_grad for p in averaged.parameters())


def test_without_a_decay_the_shadow_is_the_network() -> None:
    model = small()
    shadow = Shadow(model, None)
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    shadow.update(1)
    assert unequal(dict(shadow.model().state_dict()), dict(model.state_dict())) == []
