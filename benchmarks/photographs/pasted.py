"""What pasting leaves: averages that differ from the photograph's, and steps at the border of a face's mask."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from aminet_fast.network.expects import Expects, Template
from aminet_fast.restoration import Face, Restored
from aminet_fast.restoration.align import FRAME, pose_of, template_of
from aminet_fast.restoration.paste import ellipse
from aminet_fast.restoration.two_passes import grid_of

CONSISTENT = 1.0  # level, wanted at most
SEAM = 1.5  # times the 99th percentile of the background's steps, wanted at most
_REACH = 1.7  # eye distances from a face's middle to where its mask has ended
_FADING = 0.1  # what a face counts at most on one side of the border


class Window(NamedTuple):
    """A face's mask in the result: the box (left, top) in the photograph's pixels, and what this face counts there, and
    at most any other: float32 [h * scale, w * scale] both.
    """

    face: Face
    left: int
    top: int
    share: np.ndarray
    others: np.ndarray


def windows(faces: Sequence[Face], template: Template, size: tuple[int, int], scale: int) -> Iterator[Window]:
    """The masks of restored faces in a photograph of `size`."""
    for face in faces:
        left, top, right, bottom = _bounds(face, size)
        if left >= right or top >= bottom:
            continue
        box = (left * scale, top * scale, (right - left) * scale, (bottom - top) * scale)
        others = np.zeros((box[3], box[2]), np.float32)
        for other in faces:
            x0, y0, x1, y1 = _bounds(other, size)
            if other is not face and x0 < right and left < x1 and y0 < bottom and top < y1:
                others = np.maximum(others, ellipse(pose_of(other, template), template, *box, scale))
        yield Window(face, left, top, ellipse(pose_of(face, template), template, *box, scale), others)


def _bounds(face: Face, size: tuple[int, int]) -> tuple[int, int, int, int]:
    reach, centre = _REACH * face.eye_distance + 2, face.centre
    left, top = max(0, math.floor(centre.real - reach)), max(0, math.floor(centre.imag - reach))
    return left, top, min(size[0], math.ceil(centre.real + reach)), min(size[1], math.ceil(centre.imag + reach))


def restored_faces(done: Restored) -> list[Face]:
    return [one.face for one in done.faces if one.status == "restored"]


def keeps_pixels(face: Face, expects: Expects) -> bool:
    """Whether the network saw the photograph's own pixels, which averages then equal; larger faces are shrunk."""
    return grid_of(pose_of(face, template_of(expects)), FRAME // expects.scale).pitch == 1


def inconsistency(result: np.ndarray, photograph: np.ndarray, window: Window) -> tuple[float, int]:
    """The largest difference of a block's average to the photograph's pixel, in levels, and over how many values.

    Blocks are those in which this face alone counts, and in full, and where no value is 0 or 255.

    Args:
        result: uint8 [H * scale, W * scale, 3].
        photograph: uint8 [H, W, 3].
    """
    scale = len(result) // len(photograph)
    height, width = (side // scale for side in window.share.shape)
    rows, columns = slice(window.top, window.top + height), slice(window.left, window.left + width)
    blocks = _blocks(_cut(result, window, scale), scale)  # [h, w, 3, scale * scale]
    full = _blocks(window.share[..., None], scale).min(axis=-1) == 1
    alone = _blocks(window.others[..., None], scale).max(axis=-1) == 0
    kept = full & alone & (blocks.min(axis=-1) > 0) & (blocks.max(axis=-1) < 255)
    differences = np.abs(blocks.mean(axis=-1) - photograph[rows, columns])[kept]
    return (float(differences.max()), differences.size) if differences.size else (0.0, 0)


def _blocks(values: np.ndarray, scale: int) -> np.ndarray:
    height, width, channels = values.shape
    split = values.reshape(height // scale, scale, width // scale, scale, channels)
    return split.transpose(0, 2, 4, 1, 3).reshape(height // scale, width // scale, channels, -1)


def seam(result: np.ndarray, before: np.ndarray, window: Window, scale: int) -> float:
    """The largest step between neighbouring pixels across the mask's border beyond the enlarged photograph's own step
    there, in levels.

    Across the border are those of which one counts up to a tenth and one more than nothing; where another face counts
    too, none.

    Args:
        result, before: uint8 [H * scale, W * scale, 3], with restored faces and without.
    """
    after, plain = (_cut(picture, window, scale).astype(np.int16) for picture in (result, before))
    largest = 0.0
    for axis in (0, 1):
        sides = [np.delete(window.share, end, axis) for end in (-1, 0)]
        across = (np.minimum(*sides) <= _FADING) & (np.maximum(*sides) > 0)
        across &= np.maximum(*(np.delete(window.others, end, axis) for end in (-1, 0))) == 0
        excess = np.abs(np.diff(after, axis=axis)) - np.abs(np.diff(plain, axis=axis))
        largest = max(largest, float(excess[across].max(initial=0)))
    return largest


def usual_step(before: np.ndarray) -> float:
    """The 99th percentile of the steps between neighbouring pixels of a picture uint8 [H, W, 3], at least 1 level."""
    counts = np.zeros(256, np.int64)
    for first in range(0, len(before), 256):  # so that a large picture's differences are never held at once
        part = before[first : first + 257].astype(np.int16)
        for axis in (0, 1):
            counts += np.bincount(np.abs(np.diff(part, axis=axis)).ravel(), minlength=256)
    return float(max(1, np.searchsorted(counts.cumsum(), 0.99 * counts.sum())))


def _cut(picture: np.ndarray, window: Window, scale: int) -> np.ndarray:
    height, width = window.share.shape
    top, left = window.top * scale, window.left * scale
    return picture[top : top + height, left : left + width]
