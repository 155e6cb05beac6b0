"""AMIGAN's objective (Eq. 18 to 22): the network and its discriminator, stepped together."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from ..adversarial import ADVERSARIAL_LOSSES, MultiScaleDiscriminator, PerceptualLoss, VGG19Features, find_vgg19
from .config import TrainConfig
from .gan_config import GanConfig
from .objective import Losses, Objective, set_rate
from .optim import LOSSES, build_optimizer, learning_rate, plain_state, restore


def load_perceptual(gan: GanConfig | None) -> PerceptualLoss | None:
    """The perceptual loss of a run, None where it has none.

    Raises ValueError, FileNotFoundError when VGG19's weights are not there or are something else.
    """
    if gan is None or not gan.perceptual:
        return None
    return PerceptualLoss(VGG19Features(find_vgg19(gan.vgg), gan.layers))


def fingerprint(perceptual: PerceptualLoss | None) -> str | None:
    """Of VGG19's weights, wherever their file lies."""
    if perceptual is None:
        return None
    digest = hashlib.sha256()
    for weight in perceptual.parameters():
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class AdversarialObjective(Objective):
    """The weighted sum of pixel, perceptual and adversarial loss, against a discriminator that learns beside it.

    Both are stepped at once, each by a gradient at the other's weights of before the step, as in pix2pixHD and
    SPARNetHD: so the gradients of ``accumulate`` batches are those of a batch as many times as large.

    Args:
        perceptual: None: without it.
    """

    parts = ("pixel", "perceptual", "adversarial", "discriminator")
    skipped = "left a network as it was"

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        perceptual: PerceptualLoss | None,
    ) -> None:
        super().__init__(config, accelerator, model, optimizer)
        assert config.gan is not None
        self.gan, self.adversarial = config.gan, ADVERSARIAL_LOSSES[config.gan.loss]
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        self.net = MultiScaleDiscriminator(self.gan.scales, self.gan.width)
        self.net.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        # Before anything wraps it: DDP must not see the pass that is the network's alone.
        self.discriminator, self.its_optimizer = accelerator.prepare(
            self.net, build_optimizer(self.net, config, self.gan.lr)
        )
        self.perceptual = perceptual
        self.vgg = fingerprint(perceptual)
        if perceptual is not None:
            perceptual.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]

    def networks(self) -> tuple[nn.Module, ...]:
        return self.model, self.discriminator

    def about(self) -> str:
        return f", discriminator {sum(p.numel() for p in self.net.parameters()):,}"

    def set_rates(self, step: int, total: int) -> None:
        super().set_rates(step, total)
        set_rate(self.its_optimizer, learning_rate(self.config, step, total, self.gan.lr))

    def losses(self, given: Tensor, wanted: Tensor) -> Losses:
        faces = self.model(given)
        # Real and generated ones in one call: one power iteration, and one forward pass for DDP to prepare for.
        logits = [scale.chunk(2) for scale in self.discriminator(torch.cat([wanted, faces.detach()]))]
        discriminator = self.adversarial.discriminator([real for real, _ in logits], [fake for _, fake in logits])

        pixel = LOSSES[self.config.loss](faces, wanted)
        perceptual, adversarial = self._perceptual(faces, wanted), self._adversarial(faces)
        gan = self.gan
        total = gan.pixel * pixel + gan.perceptual * perceptual + gan.adversarial * adversarial
        reported = (total, pixel, perceptual, adversarial, discriminator)
        return Losses((total, discriminator), tuple(loss.detach() for loss in reported))

    def _perceptual(self, faces: Tensor, wanted: Tensor) -> Tensor:
        if self.perceptual is None:
            return faces.new_zeros(())
        with self.accelerator.autocast():
            return self.perceptual(faces, wanted)

    def _adversarial(self, faces: Tensor) -> Tensor:
        """The network's pass through its judge, whose own gradients are none of its business."""
        self.net.requires_grad_(False)
        try:
            return self.adversarial.generator(self.net(faces))
        finally:
            self.net.requires_grad_(True)

    def step(self) -> None:
        """Clip each network's gradients, and step both. float16's loss scale is one for both, and moves once a step."""
        accelerator, limit = self.accelerator, self.config.grad_clip
        if not accelerator.sync_gradients:
            return
        if limit is not None:
            accelerator.unscale_gradients()
            for network in self.networks():
                nn.utils.clip_grad_norm_(network.parameters(), limit)
        for prepared in (self.optimizer, self.its_optimizer):
            if accelerator.scaler is None:
                prepared.step()
            else:  # prepared.step would update the scale between the two, whose gradients have the one of before
                accelerator.scaler.step(prepared.optimizer)
            prepared.zero_grad()
        if accelerator.scaler is not None:
            accelerator.scaler.update()

    def state(self) -> dict[str, Any]:
        return {
            "discriminator": self.net.state_dict(),
            "optimizer": plain_state(self.its_optimizer.optimizer),
            "vgg": self.vgg,
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        if state is not None:
            self.net.load_state_dict(state["discriminator"])
            restore(self.its_optimizer.optimizer, state["optimizer"], self.config)

    def tensors(self) -> list[Tensor]:
        return list(self.net.state_dict().values())


def build_objective(
    config: TrainConfig,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: AcceleratedOptimizer,
    perceptual: PerceptualLoss | None,
) -> Objective:
    """The objective that the configuration asks for; arguments as `AdversarialObjective` takes them."""
    if config.gan is None:
        return Objective(config, accelerator, model, optimizer)
    return AdversarialObjective(config, accelerator, model, optimizer, perceptual)
