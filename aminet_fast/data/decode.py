"""One item to the uint8 pixels that are cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .config import DataConfig
from .drawn import draw_face
from .images import ImageError, center_crop, read_image
from .listing import Item


class Pixels(NamedTuple):
    """uint8 [H, W, 3] each; `enlarged`: the source was smaller than the HR side."""

    hr: np.ndarray | None
    lr: np.ndarray | None
    enlarged: bool = False


def decode(item: Item, config: DataConfig, draw: Callable[[int, int], Image.Image] = draw_face) -> Pixels:
    """Read, crop and resize one item as `config` says; drawn faces by `draw`. Raises ImageError with the reason."""
    if item.seed is not None:
        return Pixels(np.asarray(draw(item.seed, config.size)), None)
    if item.hr is not None and item.lr is not None:
        return _decode_pair(item.hr, item.lr, config)
    if item.hr is not None:
        face, enlarged = _face(item.hr, config.size, config, item.box)
        return Pixels(np.asarray(face), None, enlarged)
    assert item.lr is not None, f"{item.name} names no file"
    face, enlarged = _face(item.lr, config.lr_size, config, item.box)
    return Pixels(None, np.asarray(face), enlarged)


def _face(
    path: Path, size: int, config: DataConfig, box: tuple[float, float, float, float] | None
) -> tuple[Image.Image, bool]:
    """Centre crop (or `box`) and one bicubic resize to size x size."""
    image = read_image(path).rgb
    if box is not None:
        image = image.crop(_inside(box, image.width, image.height))
    face = center_crop(image, None if box is not None else config.crop)
    if min(face.size) < config.lr_size:
        small = f"{config.lr_size}x{config.lr_size}"
        raise ImageError(path, f"is too small ({image.width}x{image.height} pixels, wanted at least {small})")
    return face.resize((size, size), Image.Resampling.BICUBIC), face.width < size


def _inside(box: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """The square `box` moved, and where it must be shrunk, until it lies in the picture."""
    side = min(round(box[2] - box[0]), width, height)
    left = min(max(round((box[0] + box[2] - side) / 2), 0), width - side)
    top = min(max(round((box[1] + box[3] - side) / 2), 0), height - side)
    return left, top, left + side, top + side


def _decode_pair(hr_path: Path, lr_path: Path, config: DataConfig) -> Pixels:
    """A given pair is taken as it is: neither side is cropped or resized."""
    hr, lr = read_image(hr_path).rgb, read_image(lr_path).rgb
    if hr.size != (config.size, config.size):
        want = f"{config.size}x{config.size}"
        raise ImageError(hr_path, f"is {hr.width}x{hr.height}, wanted HR of {want} (set size to change that)")
    if lr.size != (config.lr_size, config.lr_size):
        want = f"{config.lr_size}x{config.lr_size}"
        raise ImageError(lr_path, f"is {lr.width}x{lr.height}, wanted LR of {want} (HR {config.size} / scale)")
    return Pixels(np.asarray(hr), np.asarray(lr))
