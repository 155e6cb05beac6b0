"""Weights of VGG19 for tests: torchvision's keys and shapes as far as a test needs them, drawn with a seed."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

CONVOLUTIONS = {  # torchvision's index in `features` -> (in, out)
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256),
    16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512), 25: (512, 512), 28: (512, 512), 30: (512, 512),
    32: (512, 512), 34: (512, 512),
}  # fmt: skip


def drawn_weights(last: int, seed: int = 0) -> dict[str, Tensor]:
    """The convolutions up to ``features.<last>``; He's spread, so that deep features keep their size."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for index, (before, after) in CONVOLUTIONS.items():
        if index <= last:
            spread = (2 / (9 * before)) ** 0.5
            state[f"features.{index}.weight"] = spread * torch.randn(after, before, 3, 3, generator=generator)
            state[f"features.{index}.bias"] = 0.1 * torch.randn(after, generator=generator)
    return state


def write_weights(path: Path, last: int, seed: int = 0) -> Path:
    """A .pth file as torchvision's, with a tensor of the classifier in it, or a .safetensors file."""
    state = {**drawn_weights(last, seed), "classifier.6.bias": torch.zeros(1000)}
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path
