"""Turned, scaled and cut-out pictures: one similarity, by Pillow, without aliasing and without black borders.

A similarity is two complex numbers: a result's pixel z = x + iy lies at turn * z + origin in the source. Coordinates
are continuous, (0, 0) is the upper left corner of the first pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image

_MARGIN = 3  # source pixels that bicubic interpolation looks at, beside those it is asked for


def warp(image: Image.Image, turn: complex, origin: complex, size: tuple[int, int]) -> Image.Image:
    """A picture of `size` (width, height) out of another, by bicubic interpolation; beyond the border its edge goes on.

    Where the result has fewer pixels than the source, it is made several times as large and then reduced, as
    Pillow's antialiased bicubic does it.
    """
    times = max(1, math.ceil(abs(turn) - 1e-6))
    wide, high = size[0] * times, size[1] * times
    corners = [turn * complex(x, y) + origin for x in (0, size[0]) for y in (0, size[1])]
    left, top = (math.floor(min(parts)) - _MARGIN for parts in zip(*((z.real, z.imag) for z in corners), strict=True))
    right, bottom = (
        math.ceil(max(parts)) + _MARGIN for parts in zip(*((z.real, z.imag) for z in corners), strict=True)
    )
    source = crop(image, left, top, right, bottom)
    step, start = turn / times, origin - complex(left, top)
    data = (step.real, -step.imag, start.real, step.imag, step.real, start.imag)
    result = source.transform((wide, high), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return result if times == 1 else result.resize(size, Image.Resampling.BICUBIC)


def crop(image: Image.Image, left: int, top: int, right: int, bottom: int) -> Image.Image:
    """The box, whose parts beyond the picture repeat the picture's edge."""
    inside = (max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height))
    if inside == (left, top, right, bottom):
        return image.crop(inside)
    rows = np.clip(np.arange(top, bottom), 0, image.height - 1)
    columns = np.clip(np.arange(left, right), 0, image.width - 1)
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    pixels = np.asarray(image.crop(box))
    return Image.fromarray(pixels[rows - box[1]][:, columns - box[0]])


def warp_levels(levels: np.ndarray, turn: complex, origin: complex, size: tuple[int, int]) -> np.ndarray:
    """As `warp`, of float32 levels [H, W, C], not rounded: float32 [h, w, C]."""
    return _by_channel(levels, lambda plane: warp(plane, turn, origin, size))


def resize_levels(
    levels: np.ndarray, size: tuple[int, int], resampling: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """`Image.resize` of float32 levels [H, W, C], not rounded: float32 [h, w, C]."""
    return _by_channel(levels, lambda plane: plane.resize(size, resampling))


def _by_channel(levels: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    planes = [Image.fromarray(np.ascontiguousarray(levels[..., c], np.float32)) for c in range(levels.shape[2])]
    return np.stack([np.asarray(change(plane)) for plane in planes], axis=-1)
