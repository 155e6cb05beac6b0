"""One step of AMIGAN's objective against the same step written out."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn

from aminet_fast.adversarial import ADVERSARIAL_LOSSES
from aminet_fast.training.config import GanConfig
from aminet_fast.training.objective import AdversarialObjective, fingerprint, load_perceptual
from aminet_fast.training.optim import build_optimizer
from tests.adversarial.vgg19_weights import write_weights
from tests.training.tiny import tiny, unequal

GAN = {"scales": 1, "width": 4, "layers": ["relu1_1"], "pixel": 2.0, "perceptual": 0.5, "adversarial": 0.25, "lr": 2e-3}


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """Accelerate keeps its settings for the process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def objective(tmp_path: Path, *, gan: dict[str, Any] | None = None, **options: Any) -> AdversarialObjective:
    """Over a network of one convolution."""
    torch.manual_seed(0)
    settings = GanConfig(**{**GAN, "vgg": str(write_weights(tmp_path / "vgg.pth", last=0)), **(gan or {})})
    config = tiny(tmp_path, gan=settings, lr=1e-3, channels_last=False, **options)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=config.accumulate)
    net = nn.Conv2d(3, 3, 3, padding=1)
    model, optimizer = accelerator.prepare(net, build_optimizer(net, 1e-3, config.betas))
    return AdversarialObjective(config, accelerator, model, optimizer, load_perceptual(settings))


def faces(seed: int, count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def step(objective: AdversarialObjective, batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, ...]]:
    """As the trainer does it."""
    reported = []
    for given, wanted in batches:
        with objective.accelerator.accumulate(*objective.networks()):
            losses = objective.losses(given, wanted)
            reported.append(losses.reported)
            for loss in losses.backward:
                objective.accelerator.backward(loss)
            objective.step()
    return reported


@pytest.mark.parametrize(("loss", "clip"), [("log", None), ("hinge", None), ("log", 0.05)])
def test_a_step_is_eq_18_to_22_and_both_move_at_once(tmp_path: Path, loss: str, clip: float | None) -> None:
    ours = objective(tmp_path, gan={"loss": loss}, grad_clip=clip)
    net, judge, vgg = copy.deepcopy(ours.model), copy.deepcopy(ours.net), ours.perceptual
    assert vgg is not None
    frozen = fingerprint(vgg)
    given, wanted = faces(0), faces(1)
    ours.set_rates(0, 1)
    reported = step(ours, [(given, wanted)])[0]

    # The discriminator's gradient, at the network's weights of before
    optimizers = [torch.optim.Adam(m.parameters(), r, (0.9, 0.99)) for m, r in ((net, 1e-3), (judge, 2e-3))]
    made = net(given)
    real, fake = judge(torch.cat([wanted, made.detach()]))[0].split(2)
    discriminator = ADVERSARIAL_LOSSES[loss].discriminator([real], [fake])
    discriminator.backward()
    its_gradients = [p.grad.clone() for p in judge.parameters()]
    # The network's, at the discriminator's of before
    pixel, perceptual = F.l1_loss(made, wanted), vgg(made, wanted)
    adversarial = ADVERSARIAL_LOSSES[loss].generator(judge(made))
    total = 2.0 * pixel + 0.5 * perceptual + 0.25 * adversarial
    total.backward()
    for parameter, gradient in zip(judge.parameters(), its_gradients, strict=True):
        parameter.grad = gradient  # without what went through it on the way to the network
    for module, optimizer in zip((net, judge), optimizers, strict=True):
        if clip is not None:
            assert nn.utils.clip_grad_norm_(module.parameters(), clip) > clip
        optimizer.step()

    for name, got, exact in zip(
        ("total", *ours.parts), reported, (total, pixel, perceptual, adversarial, discriminator), strict=True
    ):
        torch.testing.assert_close(got, exact.detach(), msg=name)
        assert not got.requires_grad
    torch.testing.assert_close(ours.model.state_dict(), net.state_dict())
    torch.testing.assert_close(ours.net.state_dict(), judge.state_dict())
    assert fingerprint(vgg) == frozen
    assert all(p.grad is None for m in (ours.model, ours.net) for p in m.parameters())
    assert all(p.requires_grad for p in ours.net.parameters())


def test_accumulated_batches_are_one_batch(tmp_path: Path) -> None:
    once = objective(tmp_path, grad_clip=0.05)
    # Power iterations go by calls: from converged vectors on, one more is no other.
    with torch.no_grad():
        for _ in range(300):
            once.net(faces(9, 1))
    given, wanted = faces(2, 4), faces(3, 4)
    before = copy.deepcopy(once.net.state_dict())
    step(once, [(given, wanted)])
    twice = objective(tmp_path, grad_clip=0.05, accumulate=2)
    twice.net.load_state_dict(before)
    step(twice, [(given[:2], wanted[:2])])
    weights = [k for k in before if not k.endswith(("_u", "_v"))]
    assert unequal([before[k] for k in weights], [twice.net.state_dict()[k] for k in weights]) == []
    step(twice, [(given[2:], wanted[2:])])
    # The first step of Adam goes by the gradient's sign alone: its averages tell more.
    for a, b in ((once.optimizer, twice.optimizer), (once.its_optimizer, twice.its_optimizer)):
        torch.testing.assert_close(a.state_dict()["state"], b.state_dict()["state"], rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(once.model.state_dict(), twice.model.state_dict(), rtol=1e-3, atol=1e-5)


def test_both_rates_follow_the_schedule(tmp_path: Path) -> None:
    ours = objective(tmp_path, schedule="cosine", warmup_steps=2)
    rates = []
    for number in (0, 1, 2, 5, 9):
        ours.set_rates(number, 10)
        rates.append((ours.optimizer.param_groups[0]["lr"], ours.its_optimizer.param_groups[0]["lr"]))
    assert [a for a, _ in rates] == pytest.approx([5e-4, 1e-3, 1e-3, 6.913417e-4, 3.806023e-5])
    assert [b for _, b in rates] == pytest.approx([2 * a for a, _ in rates])


def test_without_a_perceptual_loss_no_weights_of_vgg19_are_wanted(tmp_path: Path) -> None:
    ours = objective(tmp_path, gan={"perceptual": 0.0, "vgg": str(tmp_path / "gone.pth")})
    reported = dict(zip(("total", *ours.parts), step(ours, [(faces(0), faces(1))])[0], strict=True))
    assert reported["perceptual"] == 0
    torch.testing.assert_close(reported["total"], 2.0 * reported["pixel"] + 0.25 * reported["adversarial"])
    assert ours.state()["vgg"] is None


def test_the_fingerprint_is_of_the_weights_not_of_the_file(tmp_path: Path) -> None:
    prints = [
        fingerprint(
            load_perceptual(GanConfig(vgg=str(write_weights(tmp_path / name, last=0, seed=seed)), layers=layers))
        )
        for name, seed, layers in (
            ("a.pth", 0, ("relu1_1",)),
            ("b.safetensors", 0, ("conv1_1",)),
            ("c.pth", 1, ("relu1_1",)),
        )
    ]
    assert prints[0] == prints[1] != prints[2]
    assert fingerprint(None) is None
