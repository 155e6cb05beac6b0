"""What AMIGAN adds to AMINet (Section III-D): a discriminator, a perceptual loss, adversarial losses."""

from __future__ import annotations

from .discriminator import MultiScaleDiscriminator
from .losses import ADVERSARIAL_LOSSES, AdversarialLoss
from .perceptual import PerceptualLoss, VGG19Features, find_vgg19

__all__ = [
    "ADVERSARIAL_LOSSES",
    "AdversarialLoss",
    "MultiScaleDiscriminator",
    "PerceptualLoss",
    "VGG19Features",
    "find_vgg19",
]
