"""Adversarial losses (Eq. 20 and 21), on the logits of every patch at every scale."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Sequence[Tensor]  # one [N, 1, h, w] a scale


class AdversarialLoss(NamedTuple):
    """One loss for each player; both are scalars, means over pictures and patches, then over scales."""

    discriminator: Callable[[Logits, Logits], Tensor]  # of the logits of real pictures and of generated ones
    generator: Callable[[Logits], Tensor]  # of the logits of generated pictures


def _mean(values: Logits) -> Tensor:
    # A scale counts as much as another, however few patches it has.
    return torch.stack([v.mean() for v in values]).mean()


def log_discriminator(real: Logits, fake: Logits) -> Tensor:
    """Eq. 20, -E[log D(HR)] - E[log(1 - D(SR))], with D the sigmoid of a logit."""
    return _mean([F.softplus(-r) for r in real]) + _mean([F.softplus(f) for f in fake])


def log_generator(fake: Logits) -> Tensor:
    """Eq. 21, -E[log D(SR)]."""
    return _mean([F.softplus(-f) for f in fake])


def hinge_discriminator(real: Logits, fake: Logits) -> Tensor:
    """E[max(0, 1 - D(HR))] + E[max(0, 1 + D(SR))], with D the logit itself (arXiv 1705.02894)."""
    return _mean([F.relu(1 - r) for r in real]) + _mean([F.relu(1 + f) for f in fake])


def hinge_generator(fake: Logits) -> Tensor:
    """-E[D(SR)]."""
    return -_mean(fake)


ADVERSARIAL_LOSSES = {
    "log": AdversarialLoss(log_discriminator, log_generator),
    "hinge": AdversarialLoss(hinge_discriminator, hinge_generator),
}
