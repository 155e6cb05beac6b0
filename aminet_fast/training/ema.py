"""The weights that are validated and saved: an exponential moving average, or a plain copy."""

from __future__ import annotations

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..network.model import AMINet


class Shadow:
    """A second network beside the trained one, in eval mode and without gradients.

    With a decay it holds the average of the weights over the steps; without one it is brought up to date
    whenever it is asked for. It is never compiled, wrapped by DDP or patched for autocast, so what is
    validated is what a user loads.

    Args:
        model: The network in training, before Accelerate wraps it.
        decay: d in ``average = d * average + (1 - d) * weight``, or None. Over the first steps d is
            min(decay, (1 + step) / (10 + step)), lest the initial weights weigh on a short run.
    """

    def __init__(self, model: AMINet, decay: float | None) -> None:
        self.source, self.decay = model, decay
        self.average: AMINet = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights of optimiser step ``step`` (the first is 1) into the average."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        average, source = list(self.average.parameters()), list(self.source.parameters())
        get_ema_multi_avg_fn(decay)(average, source, 0)
        self._copy_buffers()

    @torch.no_grad()
    def model(self) -> AMINet:
        """The network to validate and to save."""
        if self.decay is None:
            for mine, theirs in zip(self.average.parameters(), self.source.parameters(), strict=True):
                mine.copy_(theirs)
            self._copy_buffers()
        return self.average

    def _copy_buffers(self) -> None:
        # BatchNorm's statistics are running averages already, and its counter is no number to average.
        for mine, theirs in zip(self.average.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)
