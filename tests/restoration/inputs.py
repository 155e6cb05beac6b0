"""Pictures and a tiny network for the tests of upscaling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from aminet_fast import AMINet, AMINetConfig
from aminet_fast.restoration import UpscaleConfig


class Lopsided(nn.Module):
    """Adds 40 levels to the left half of what it is given; the mean with the mirrored result has 20 everywhere."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        y[..., : x.shape[-1] // 2] += 40 / 127.5
        return y


def brightened(image: Image.Image, levels: int) -> Image.Image:
    return Image.fromarray(np.minimum(np.asarray(image).astype(int) + levels, 255).astype(np.uint8))


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze() if channels == 1 else pixels, mode)


def bicubic(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 8, image.height * 8), Image.Resampling.BICUBIC)


def assert_same(a: Image.Image, b: Image.Image) -> None:
    assert (a.mode, a.size) == (b.mode, b.size)
    assert a.tobytes() == b.tobytes()


def faces(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(6, 4, seed=i).save(folder / name)
    return folder


def save_network(folder: Path) -> str:
    """A narrow network's weights, by which nothing gets better."""
    torch.manual_seed(0)
    AMINet(AMINetConfig(width=4, hourglass_width=4)).save_pretrained(folder)
    return str(folder)


def command(tmp_path: Path, weights: str, *inputs: Path, **settings: object) -> UpscaleConfig:
    names = [str(path) for path in inputs]
    return UpscaleConfig(names, out=str(tmp_path / "out"), weights=weights, **settings)  # type: ignore[arg-type]
