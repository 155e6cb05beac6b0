"""A face that was found in a photograph."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Face:
    """Box, score and five points, in pixels of the upright photograph."""

    box: tuple[float, float, float, float]
    score: float
    points: tuple[tuple[float, float], ...]
    roll: float = 0.0

    @property
    def eye_distance(self) -> float:
        """Pixels between the eyes."""
        return math.dist(*self.points[:2])

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)
