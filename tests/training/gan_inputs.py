"""A discriminator for faces of 32 pixels, for the tests of adversarial training."""

from __future__ import annotations

from typing import Any

from aminet_fast.training.config import GanConfig

PARTS = ("pixel", "perceptual", "adversarial", "discriminator")


def gan(vgg: str, **changes: Any) -> GanConfig:
    """One scale: the tests' faces have 32 pixels."""
    return GanConfig(**{"scales": 1, "width": 4, "vgg": vgg, "layers": ("relu1_1", "relu2_1"), **changes})
