"""What a step minimises: the pixel loss, or what `AdversarialObjective` makes of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from .config import TrainConfig
from .optim import LOSSES, learning_rate


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
        """The learning rate of optimiser step ``step`` of ``total``."""
        set_rate(self.optimizer, learning_rate(self.config, step, total))

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


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all its parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
