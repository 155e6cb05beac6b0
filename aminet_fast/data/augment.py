"""Training augmentation: horizontal flip, and a random resized crop or a random pose, a pure function of one seed."""

from __future__ import annotations

import cmath
import math
from typing import Literal

import numpy as np
from PIL import Image

from .warp import warp

Augment = Literal["full", "flip", "pose", "none"]
AREA = (0.7, 1.0)
RATIO = (3 / 4, 4 / 3)

# As a face lies on the pixels of a photograph, before it is aligned.
POSED = 2 / 3  # share of the pictures that are moved
ROLL = 30.0  # degrees, both ways
SIZE = (0.6, 1.2)  # times as large
SHIFT = 1 / 16  # of the side, both ways: a pixel of 16


def augment(image: Image.Image, seed: int, how: Augment = "full") -> Image.Image:
    """Flip with probability 1/2; with "full", cut a random box and resize it to the picture's size; with "pose", turn,
    scale and shift two of three pictures, as `sample_pose` says.

    The box is sampled as torchvision's RandomResizedCrop does (area 0.7-1, ratio 3/4-4/3) and resized by
    Pillow's antialiased bicubic. The same picture and `seed` give the same result in every process.
    """
    if how == "none":
        return image
    rng = np.random.Generator(np.random.PCG64(seed))
    flip = rng.random() < 0.5
    if how == "full":
        box = sample_box(rng, image.width, image.height)
        # cut first: resize(box=...) would let the filter read pixels outside of the box
        image = image.crop(box).resize(image.size, Image.Resampling.BICUBIC)
    elif how == "pose" and rng.random() < POSED:
        image = _pose(image, *sample_pose(rng, image.width, image.height))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image


def sample_pose(rng: np.random.Generator, width: int, height: int) -> tuple[complex, complex]:
    """A similarity that keeps the middle within a sixteenth: the new picture's pixel z lies at turn * z + origin."""
    roll = rng.uniform(-ROLL, ROLL)
    size = math.exp(rng.uniform(math.log(SIZE[0]), math.log(SIZE[1])))
    shift = complex(*rng.uniform(-SHIFT, SHIFT, 2)) * max(width, height)
    turn = cmath.rect(1 / size, math.radians(-roll))
    middle = complex(width, height) / 2
    return turn, middle - turn * (middle + shift)


def _pose(image: Image.Image, turn: complex, origin: complex) -> Image.Image:
    """`warp` of an RGB picture that goes on beyond its border as its mirror image."""
    # 0.6 times as large, turned by 30 degrees and shifted, a picture needs 0.79 of its side around it.
    right, below = math.ceil(0.82 * image.width), math.ceil(0.82 * image.height)
    around = np.pad(np.asarray(image), ((below, below), (right, right), (0, 0)), mode="symmetric")
    return warp(Image.fromarray(around), turn, origin + complex(right, below), image.size)


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
