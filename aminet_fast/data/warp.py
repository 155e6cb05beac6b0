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
    Pillow's antialiased bicubic does it. Pillow rounds 8-bit levels down where it turns them: half a level, on average.
    """
    times = max(1, math.ceil(abs(turn) - 1e-6))
    wide, high = size[0] * times, size[1] * times
    box = _box_of(turn, origin, size)
    source = crop(image, *box)
    step, start = turn / times, origin - complex(*box[:2])
    data = (step.real, -step.imag, start.real, step.imag, step.real, start.imag)
    result = source.transform((wide, high), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return result if times == 1 else result.resize(size, Image.Resampling.BICUBIC)


def warp_rounded(image: Image.Image, turn: complex, origin: complex, size: tuple[int, int]) -> Image.Image:
    """As `warp`, of an RGB picture, rounded to the nearest level: right to keep, and takes twice the time."""
    box = _box_of(turn, origin, size)
    levels = np.asarray(crop(image, *box), np.float32)
    levels = warp_levels(levels, turn, origin - complex(*box[:2]), size)
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def _box_of(turn: complex, origin: complex, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The source's pixels that a result needs: left, top, right, bottom."""
    corners = [turn * complex(x, y) + origin for x in (0, size[0]) for y in (0, size[1])]
    across, down = zip(*((z.real, z.imag) for z in corners), strict=True)
    left, top = math.floor(min(across)) - _MARGIN, math.floor(min(down)) - _MARGIN
    return left, top, math.ceil(max(across)) + _MARGIN, math.ceil(max(down)) + _MARGIN


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
