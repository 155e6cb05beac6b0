"""A face of a photograph, as a detector finds it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Face:
    """Box (left, top, right, bottom), score, five points and roll of a face, in pixels of the upright photograph."""

    box: tuple[float, float, float, float]
    score: float
    points: tuple[tuple[float, float], ...]
    roll: float = 0.0

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes."""
        return math.dist(self.points[0], self.points[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "eye_distance": self.eye_distance}
