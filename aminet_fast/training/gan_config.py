"""`GanConfig`: what adversarial training can be told, with AMIGAN's recipe (Section III-D and IV-B) as the defaults."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from ..adversarial.discriminator import MultiScaleDiscriminator
from ..adversarial.perceptual import LAYERS, check_layers
from ..network.presets import get_config, list_configs
from ..reference.config import AMINetConfig

LR = 1e-4  # the generator's, where a run without a discriminator has 2e-4
NETWORKS = {f"amigan{size}": f"aminet{size}" for size in ("", "-small", "-tiny", "-nano")}  # preset -> its generator


def network_of(preset: str) -> AMINetConfig:
    """The network that a preset names, the generator where it is a GAN's; raises ValueError listing all presets."""
    name = NETWORKS.get(preset, preset)
    if name not in list_configs():
        raise ValueError(f"no preset is called {preset!r}; there are {', '.join([*list_configs(), *NETWORKS])}")
    return get_config(name)


@dataclass
class GanConfig:
    """Train against a discriminator and on VGG19's features, too; the defaults are AMIGAN's.

    Args:
        loss: Adversarial loss: the paper's log loss, or hinge.
        pixel: Weight of the pixel loss.
        perceptual: Weight of the perceptual loss; 0: without it, and without VGG19's weights.
        adversarial: Weight of the adversarial loss.
        lr: The discriminator's learning rate; it follows the network's schedule.
        scales: Sizes of the picture that the discriminator sees, each half of the one before.
        width: Channels of the discriminator's first convolution.
        vgg: VGG19's weights, torchvision's vgg19-dcbb9e9d.pth or its tensors as .safetensors; without it, that file in
            PyTorch's cache. Nothing is downloaded.
        layers: Layers of VGG19 whose features are compared.
    """

    loss: Literal["log", "hinge"] = "log"
    pixel: float = 1.0
    perceptual: float = 0.01
    adversarial: float = 0.01
    lr: float = 4e-4
    scales: int = 2
    width: int = 64
    vgg: str | None = None
    layers: tuple[str, ...] = LAYERS

    def __post_init__(self) -> None:
        self.layers = tuple(self.layers)  # YAML has no tuples

    def check(self) -> None:
        """Raises ValueError naming a value that cannot be.

        Not in `__post_init__`: there jsonargparse would take it for a sign that null was meant.
        """
        check_layers(self.layers, "gan.layers")
        for name in ("pixel", "perceptual", "adversarial"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"gan.{name} is {value!r}; it must be at least 0")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"gan.lr is {self.lr!r}; it must be above 0")
        for name in ("scales", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"gan.{name} is {getattr(self, name)}; it must be at least 1")

    def check_size(self, size: int) -> None:
        """Raises ValueError when faces of size x size leave the last scale nothing to see."""
        least = MultiScaleDiscriminator.smallest(self.scales)
        if size < least:
            raise ValueError(
                f"gan.scales is {self.scales}; that needs faces of {least} pixels, and data.size is {size}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain YAML values."""
        return {**dataclasses.asdict(self), "layers": list(self.layers)}
