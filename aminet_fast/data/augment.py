"""Training augmentation: horizontal flip and random resized crop, a pure function of one seed."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from PIL import Image

Augment = Literal["full", "flip", "none"]
AREA = (0.7, 1.0)
RATIO = (3 / 4, 4 / 3)


def augment(image: Image.Image, seed: int, *, crop: bool = True) -> Image.Image:
    """Flip with probability 1/2 and, with `crop`, cut a random box and resize it to the picture's size.

    The box is sampled as torchvision's RandomResizedCrop does (area 0.7-1, ratio 3/4-4/3) and resized by
    Pillow's antialiased bicubic. The same picture and `seed` give the same result in every process.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    flip = rng.random() < 0.5
    if crop:
        box = sample_box(rng, image.width, image.height)
        # cut first: resize(box=...) would let the filter read pixels outside of the box
        image = image.crop(box).resize(image.size, Image.Resampling.BICUBIC)
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def sample_box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) with an area of 0.7-1 of the picture and a log-uniform ratio of 3/4-4/3."""
    for _ in range(10):
        area = rng.uniform(*AREA) * width * height
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1)))
            return left, top, left + w, top + h
    # torchvision's way out: the largest middle box whose ratio is allowed
    w = min(width, round(height * RATIO[1]))
    h = min(height, round(width / RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
