"""The embedded default: drawn faces by seed, so that everything runs with no download."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .config import DataConfig
from .sources import Item, Listing

DRAWN_VERSION = 0
_SPLIT_SHIFT = 34


def list_drawn(config: DataConfig) -> Listing:
    """Seeds of the drawn faces; the splits' seeds, and those of different `config.seed`, never meet."""
    few = max(64, config.drawn // 16)
    splits: dict[str, list[Item]] = {}
    for number, (split, count) in enumerate((("train", config.drawn), ("val", few), ("test", few))):
        first = (config.seed * 3 + number) << _SPLIT_SHIFT
        splits[split] = [Item(f"drawn_{split}_{i:05d}.png", seed=first + i) for i in range(count)]
    everything = [item for part in splits.values() for item in part]
    return Listing("drawn", "the drawn faces", {**splits, "all": everything})


def draw_face(seed: int, size: int = 128) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64(seed))
    image = Image.new("RGB", (3 * size, 3 * size), tuple(int(v) for v in rng.integers(0, 255, 3)))
    ImageDraw.Draw(image).ellipse((60, 60, 300, 340), fill=(200, 160, 140))
    return image.resize((size, size), Image.Resampling.LANCZOS)
