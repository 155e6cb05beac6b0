"""The discriminator against its layers written out, its spectral norms, and the losses against Eq. 20 and 21."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.parametrizations import _SpectralNorm

from aminet_fast.adversarial import ADVERSARIAL_LOSSES, MultiScaleDiscriminator


def faces(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def written_out(network: MultiScaleDiscriminator, x: Tensor) -> list[Tensor]:
    """What the network in eval mode computes, from its state dict alone."""
    state = {k: v.to(x.dtype) for k, v in network.state_dict().items()}
    logits = []
    for scale in range(len(network.scales)):
        if scale:
            x = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        y = x
        for layer, stride in zip((0, 2, 4, 6, 8), (2, 2, 2, 1, 1), strict=True):
            key = f"scales.{scale}.{layer}."
            weight = state[f"{key}parametrizations.weight.original"]
            u, v = (state[f"{key}parametrizations.weight.0.{name}"] for name in ("_u", "_v"))
            y = F.conv2d(y, weight / (u @ weight.flatten(1) @ v), state[f"{key}bias"], stride, 1)
            y = y if layer == 8 else F.leaky_relu(y, 0.2)
        logits.append(y)
    return logits


def test_it_is_five_convolutions_at_each_scale() -> None:
    torch.manual_seed(0)
    network = MultiScaleDiscriminator(scales=2, width=4).eval()
    x = faces(2, 3, 128, 128)
    logits, wanted = network(x), written_out(network, x.double())
    assert [tuple(y.shape) for y in logits] == [(2, 1, 14, 14), (2, 1, 6, 6)]
    for got, exact in zip(logits, wanted, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


def test_the_papers_size_has_as_many_weights_as_pix2pixs() -> None:
    one = sum(p.numel() for p in MultiScaleDiscriminator(scales=1).parameters())
    channels = (3, 64, 128, 256, 512, 1)
    assert one == sum(16 * channels[i] * channels[i + 1] + channels[i + 1] for i in range(5)) == 2_764_737
    assert sum(p.numel() for p in MultiScaleDiscriminator().parameters()) == 2 * one


def test_training_tracks_the_largest_singular_value() -> None:
    torch.manual_seed(1)
    network = MultiScaleDiscriminator(scales=1, width=4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # as optimiser steps would
        for _ in range(200):
            network(faces(1, 3, 24, 24))
    network.eval()
    for layer in (0, 2, 4, 6, 8):
        weight = network.scales[0][layer].weight.flatten(1).double()  # type: ignore[index, union-attr]
        assert torch.linalg.matrix_norm(weight, 2).item() == pytest.approx(1, abs=1e-3)


def test_one_power_iteration_a_call_in_float32_also_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    plain = MultiScaleDiscriminator(scales=1, width=4)
    half = copy.deepcopy(plain)
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    plain(faces(1, 3, 24, 24))
    seen = []
    iterate = _SpectralNorm._power_method
    monkeypatch.setattr(
        _SpectralNorm, "_power_method", lambda *a: (seen.append(torch.is_autocast_enabled("cpu")), iterate(*a))
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert half(faces(1, 3, 24, 24))[0].dtype == torch.float32
    assert seen == [False] * 5  # some devices would do it in half precision
    vectors = [k for k in before if k.endswith(("_u", "_v"))]
    assert len(vectors) == 10
    for key in vectors:
        assert torch.equal(plain.state_dict()[key], half.state_dict()[key])
    weight, v = before["scales.0.4.parametrizations.weight.original"].flatten(1), before[vectors[5]]
    assert vectors[5] == "scales.0.4.parametrizations.weight.0._v"
    torch.testing.assert_close(plain.state_dict()[vectors[4]], F.normalize(weight @ v, dim=0))


@pytest.mark.parametrize(("scales", "least"), [(1, 24), (2, 48), (3, 96)])
def test_too_small_pictures_are_refused(scales: int, least: int) -> None:
    network = MultiScaleDiscriminator(scales, width=2)
    assert network(faces(1, 3, least, least))[-1].shape == (1, 1, 1, 1)
    with pytest.raises(ValueError, match=f"{scales} scales needs pictures of at least {least}x{least}, got"):
        network(faces(1, 3, least, least - 1))


def logits(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(2, 1, n, n, generator=generator, dtype=torch.float64) for n in (5, 2)]


def test_log_losses_are_eq_20_and_21() -> None:
    real, fake = logits(0), logits(1)
    d_real, d_fake = ([torch.sigmoid(x) for x in scale] for scale in (real, fake))
    loss = ADVERSARIAL_LOSSES["log"]
    eq_20 = sum(-r.log().mean() - (1 - f).log().mean() for r, f in zip(d_real, d_fake, strict=True)) / 2
    eq_21 = sum(-f.log().mean() for f in d_fake) / 2
    assert loss.discriminator(real, fake).item() == pytest.approx(float(eq_20), rel=1e-6)
    assert loss.generator(fake).item() == pytest.approx(float(eq_21), rel=1e-6)


def test_hinge_losses() -> None:
    real, fake = [torch.tensor([[0.25, 3.0]])], [torch.tensor([[-4.0, 0.5]])]
    loss = ADVERSARIAL_LOSSES["hinge"]
    assert loss.discriminator(real, fake).item() == pytest.approx(0.75 / 2 + 1.5 / 2)
    assert loss.generator(fake).item() == pytest.approx(3.5 / 2)


@pytest.mark.parametrize("name", ["log", "hinge"])
def test_each_player_gains_by_its_loss(name: str) -> None:
    """Where D is sure and wrong, the log keeps a gradient and no loss overflows."""
    real, fake = [torch.full((1, 1, 2, 2), -80.0).requires_grad_()], [torch.full((1, 1, 2, 2), 80.0).requires_grad_()]
    loss = ADVERSARIAL_LOSSES[name]
    value = loss.discriminator(real, fake)
    value.backward()
    assert value.isfinite()
    torch.testing.assert_close(real[0].grad, torch.full((1, 1, 2, 2), -0.25))
    torch.testing.assert_close(fake[0].grad, torch.full((1, 1, 2, 2), 0.25))
    beaten = torch.full((1, 1, 2, 2), -80.0).requires_grad_()
    loss.generator([beaten]).backward()
    torch.testing.assert_close(beaten.grad, torch.full((1, 1, 2, 2), -0.25))
