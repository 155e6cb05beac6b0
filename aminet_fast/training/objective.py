"""What a step minimises: the pixel loss, or AMIGAN's sum (Eq. 18 to 22), whose discriminator learns beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from ..adversarial import ADVERSARIAL_LOSSES, MultiScaleDiscriminator, PerceptualLoss, VGG19Features, find_vgg19
from .config import GanConfig, TrainConfig
from .optim import build_optimizer, learning_rate, plain_state, restore

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": nn.functional.l1_loss,
    "l2": nn.functional.mse_loss,
}


class Losses(NamedTuple):
    """One batch's losses, scalars.

    ``backward`` is what to go back from; ``reported`` is detached: the network's loss, and then the objective's parts.
    """

    backward: tuple[Tensor, ...]
    reported: tuple[Tensor, ...]


class Objective:
    """The pixel loss alone.

    Args:
        config: Which loss, and how it is stepped.
        accelerator: The run's.
        model: The network as prepared by the accelerator.
        optimizer: Its optimiser, prepared too.
    """

    parts: tuple[str, ...] = ()  # losses that are reported beside the network's, as columns of metrics.csv
    skipped = "changed no weight"  # what a step did that overflowed float16

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, model: nn.Module, optimizer: AcceleratedOptimizer
    ) -> None:
        self.config, self.accelerator, self.model, self.optimizer = config, accelerator, model, optimizer

    def networks(self) -> tuple[nn.Module, ...]:
        """All that are trained, as prepared."""
        return (self.model,)

    def about(self) -> str:
        """What the run's first line says of it after the network."""
        return ""

    def set_rates(self, step: int, total: int) -> None:
        """The learning rates of optimiser step ``step`` (the first is 0) of ``total``."""
        _set_rate(self.optimizer, self.rate(step, total))

    def rate(self, step: int, total: int) -> float:
        """The network's learning rate at that step."""
        assert self.config.lr is not None  # TrainConfig fills it in
        return self._scheduled(self.config.lr, step, total)

    def _scheduled(self, lr: float, step: int, total: int) -> float:
        config = self.config
        return learning_rate(step, total, lr=lr, schedule=config.schedule, warmup_steps=config.warmup_steps)

    def losses(self, given: Tensor, wanted: Tensor) -> Losses:
        """given, wanted [N, 3, S, S] in [-1, 1]: the network's input, and the picture it stands for."""
        loss = LOSSES[self.config.loss](self.model(given), wanted)
        return Losses((loss,), (loss.detach(),))

    def step(self) -> None:
        """After a batch's backward passes; while gradients are still being summed, nothing moves."""
        if self.config.grad_clip is not None and self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint holds of it beside the network and its optimiser."""
        return None

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take what `state` returned; None, from a run with another objective, changes nothing."""

    def tensors(self) -> list[Tensor]:
        """Weights beside the network's that have to stay finite."""
        return []


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
            self.net, build_optimizer(self.net, self.gan.lr, config.betas)
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
        _set_rate(self.its_optimizer, self._scheduled(self.gan.lr, step, total))

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
            restore(self.its_optimizer.optimizer, state["optimizer"], self.config.betas)

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


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all its parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
