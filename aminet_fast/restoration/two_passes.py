"""Faces restored in two passes: in the photograph's own pixels, and from there upright in the frame that the weights
expect.

A face of 16x16 pixels has no pixels to spare: turned and shifted onto the network's grid by interpolation it is
blurred, and the network then restores a blurred face (about +0.5 dB over bicubic at eye distances of 3.4 pixels, where
the same face, never interpolated, has +1.5). So the network first sees the photograph's pixels as they are, turned or
not. That result, eight times as fine, can be turned without loss; shrunk again, it is the upright face for the second
pass. What comes out is turned back, and gets the photograph's own averages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.warp import crop, resize_levels, warp_levels
from .align import FRAME, Pose
from .consistency import match_averages, match_bicubic

# LR pictures [h, w, 3] of levels, all of one size, to as many pictures [h * scale, w * scale, 3].
Network = Callable[[Sequence[np.ndarray]], list[np.ndarray]]

_KEPT = 1.3  # times the network's LR side up to which a larger face keeps its pixels
_AROUND = 4  # LR pixels around the turned frame, in all
_SECOND = 0.6  # what the second pass counts inside of the frame; the first is the rest
_FEATHER = 0.1  # of the frame's side, over which the second pass goes over into the first


class Grid(NamedTuple):
    """LR pixels over the photograph, its axes' directions: pixel z is the photograph's `pitch` z + `origin`."""

    side: int
    pitch: float
    origin: complex


class Passed(NamedTuple):
    """A face after both passes.

    `levels` float32 [side * scale, side * scale, 3] lie over `grid`; `frame` float32 [m * scale, m * scale, 3] is the
    upright face, and `lr` float32 [m, m, 3] what the second pass was given: m is 16 for an LR face of 16 or fewer
    pixels.
    """

    grid: Grid
    levels: np.ndarray
    frame: np.ndarray
    lr: np.ndarray


def frame_of(pose: Pose, lr_side: int) -> tuple[int, float]:
    """LR pixels along the frame's side, and pixels of the photograph along one of them, but for rounding.

    A face smaller than the network's is enlarged to it. A slightly larger one keeps its pixels; a larger one is shrunk
    to `_KEPT` times as many as the network's. Of clean pictures more pixels would be restored better, but of
    photographs as they are, blurred and compressed, worse.
    """
    ratio = pose.side / lr_side
    if ratio <= 1:
        return lr_side, ratio
    pitch = max(1.0, ratio / _KEPT)
    return 2 * math.ceil(pose.side / pitch / 2 - 1e-6), pitch


def grid_of(pose: Pose, lr_side: int) -> Grid:
    """The LR pixels that hold the whole turned frame: those of the photograph, unless the face has too many."""
    pitch = max(1.0, frame_of(pose, lr_side)[1])
    turn = pose.turn / abs(pose.turn)
    across = (pose.side / pitch) * (abs(turn.real) + abs(turn.imag)) + _AROUND
    side = max(lr_side, 2 * math.ceil(across / 2))
    centre = pose.turn * complex(0.5, 0.5) + pose.origin
    corner = centre - complex(side, side) * pitch / 2
    if pitch == 1.0:
        corner = complex(round(corner.real), round(corner.imag))
    return Grid(side, pitch, corner)


def cut(image: Image.Image, grid: Grid) -> np.ndarray:
    """The grid's pixels, the photograph's own or these shrunk by antialiased bicubic: float32 [side, side, 3]."""
    left, top = math.floor(grid.origin.real) - 4, math.floor(grid.origin.imag) - 4
    length = math.ceil(grid.side * grid.pitch) + 10
    around = crop(image, left, top, left + length, top + length)
    x, y = grid.origin.real - left, grid.origin.imag - top
    if grid.pitch == 1.0:
        return np.asarray(around.crop((int(x), int(y), int(x) + grid.side, int(y) + grid.side)), np.float32)
    box = (x, y, x + grid.side * grid.pitch, y + grid.side * grid.pitch)
    return np.asarray(around.resize((grid.side, grid.side), Image.Resampling.BICUBIC, box), np.float32)


def restore_faces(
    images: Sequence[Image.Image], poses: Sequence[Pose], network: Network, *, scale: int = 8
) -> list[Passed]:
    """Both passes over faces of any pictures; those whose LR pictures are equally large share the network's batches.

    Args:
        images: RGB, one a face.
        poses: where each face lies in its picture.
        network: enlarges LR pictures of levels 0 to 255 `scale` times.
        scale: of the network; divides 128.
    """
    lr_side = FRAME // scale
    grids = [grid_of(pose, lr_side) for pose in poses]
    given = [cut(image, grid) for image, grid in zip(images, grids, strict=True)]
    first = [match_bicubic(levels, lr) for levels, lr in zip(_by_size(network, given), given, strict=True)]
    small = []
    for levels, grid, pose in zip(first, grids, poses, strict=True):
        side = frame_of(pose, lr_side)[0]
        small.append(np.rint(resize_levels(_into_frame(levels, grid, pose, side * scale), (side, side)).clip(0, 255)))
    found = []
    for levels, lr, grid, pose, frame, into in zip(
        first, given, grids, poses, _by_size(network, small), small, strict=True
    ):
        both = match_averages(_out_of_frame(frame, levels, grid, pose), lr)
        found.append(Passed(grid, both, match_averages(frame, into), into))
    return found


def _by_size(network: Network, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
    results: dict[int, np.ndarray] = {}
    for side in sorted({len(picture) for picture in pictures}):
        places = [index for index, picture in enumerate(pictures) if len(picture) == side]
        results |= zip(places, network([pictures[index] for index in places]), strict=True)
    return [results[index] for index in range(len(pictures))]


def _into_frame(levels: np.ndarray, grid: Grid, pose: Pose, side: int) -> np.ndarray:
    """The upright face of the first pass: float32 [side, side, 3]."""
    fine = grid.pitch * grid.side / len(levels)
    return warp_levels(levels, pose.turn / side / fine, (pose.origin - grid.origin) / fine, (side, side))


def _out_of_frame(frame: np.ndarray, levels: np.ndarray, grid: Grid, pose: Pose) -> np.ndarray:
    """Both passes, weighed, where the frame lies, the first one around it."""
    side = len(frame)
    fine, pixel = grid.pitch * grid.side / len(levels), pose.turn / side
    size = (levels.shape[1], levels.shape[0])
    turn, origin = fine / pixel, (grid.origin - pose.origin) / pixel
    edge = np.minimum(np.arange(side) + 0.5, side - 0.5 - np.arange(side)) / (_FEATHER * side)
    weight = np.minimum.outer(edge, edge).clip(0, 1).astype(np.float32)[..., None]  # [side, side, 1]
    weight[[0, -1]] = 0  # beyond the frame its edge goes on
    weight[:, [0, -1]] = 0
    share = _SECOND * warp_levels(weight, turn, origin, size).clip(0, 1)
    return share * warp_levels(frame, turn, origin, size) + (1 - share) * levels
