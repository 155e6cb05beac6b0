"""Faces made of numbers, and a detector that reads them: red and green say where in the face a pixel lies."""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from aminet_fast.restoration.faces import SHAPE, Face, box_around, fit, roll_of

_MIRRORED = (1, 0, 2, 4, 3)


def planted(x: float, y: float, eye_distance: float, roll: float = 0.0, score: float = 0.9) -> Face:
    """A face with its eyes' middle at (x, y)."""
    turn = cmath.rect(eye_distance, math.radians(roll))
    places = [turn * z + complex(x, y) for z in SHAPE]
    return Face(box_around(places), score, tuple((z.real, z.imag) for z in places), roll)


def described(face: Face) -> dict[str, Any]:
    """The face as a file of points has it."""
    return {"box": face.box, "points": face.points, "score": face.score}


def chart(size: tuple[int, int], faces: Sequence[Face]) -> Image.Image:
    """Black, but for the faces: an ellipse each."""
    pixels = np.zeros((size[1], size[0], 3))
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    for face in faces:
        turn, origin = fit(SHAPE, face.places)
        place = (x + 1j * y - origin) / turn  # eye distances from the eyes' middle
        inside = np.hypot(place.real, (place.imag - 0.4) / 1.3) < 1
        pixels[inside] = np.stack([100 + 70 * place.real, 60 + 60 * place.imag, np.full(place.shape, 200.0)], -1)[
            inside
        ]
    return Image.fromarray(np.rint(pixels.clip(0, 255)).astype(np.uint8))


class ChartReader:
    """A detector of charts.

    Args:
        sees: the share of a face's roll that it sees, as real ones see little of a small face's.
        least: pixels between the eyes from which on it sees a face.
    """

    def __init__(self, *, sees: float = 1.0, least: float = 4.0) -> None:
        self.sees, self.least, self.sizes = sees, least, list[tuple[int, int]]()

    def __call__(self, image: Image.Image) -> list[Face]:
        assert image.mode == "RGB"
        self.sizes.append(image.size)
        pixels = np.asarray(image)
        labels, _ = ndimage.label(pixels[..., 2] > 150)
        found = []
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), 1):
            y, x = np.nonzero(labels[rows, columns] == number)
            y, x = y[:: 1 + len(y) // 5000], x[:: 1 + len(x) // 5000]
            found.append(self._face(pixels, x + columns.start, y + rows.start))
        return [face for face in found if face is not None]

    def _face(self, pixels: np.ndarray, x: np.ndarray, y: np.ndarray) -> Face | None:
        if len(x) < 12:
            return None
        red, green, blue = pixels[y, x].T.astype(float)
        u, v = (200 * red / blue - 100) / 70, (200 * green / blue - 60) / 60  # as if the pixels around were no part
        matrix = np.linalg.lstsq(np.stack([u, v, np.ones_like(u)], 1), np.stack([x + 0.5, y + 0.5], 1), rcond=None)[0]
        points = [complex(*(np.array([z.real, z.imag, 1.0]) @ matrix)) for z in SHAPE]
        if np.linalg.det(matrix[:2]) < 0:  # a mirror image has its left eye at the right
            points = [points[n] for n in _MIRRORED]
        roll, middle = roll_of(points), sum(points) / 5
        if abs(fit(SHAPE, points)[0]) < self.least or abs(roll) > 80:
            return None
        back = cmath.rect(1, math.radians((self.sees - 1) * roll))
        points = [(z - middle) * back + middle for z in points]
        return Face(box_around(points), 0.95 - abs(roll) / 200, tuple((z.real, z.imag) for z in points))
