"""Which of the faces in the photographs a detector finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aminet_fast.restoration import Face, RestoreOptions

from .pictures import Box

DEFAULT = RestoreOptions().min_score
MIN_SCORES = tuple(sorted({0.5, 0.6, 0.7, DEFAULT}))
WANTED = 0.99
_SAME = 0.3  # intersection over union


class Counted(NamedTuple):
    """Faces that are there, those of them that were found, and what was found beside them."""

    there: int
    found: int
    extra: int

    def __add__(self, other: tuple[int, ...]) -> Counted:  # type: ignore[override]
        return Counted(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def recall(self) -> float:
        return self.found / max(1, self.there)


def count(there: Sequence[Box], faces: Sequence[Face], min_score: float) -> Counted:
    """Pairs boxes of the largest intersection over union first, each once."""
    boxes = [face.box for face in faces if face.score >= min_score]
    pairs = [(iou(a, b), i, j) for i, a in enumerate(there) for j, b in enumerate(boxes)]
    hit: set[int] = set()
    used: set[int] = set()
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap >= _SAME and i not in hit and j not in used:
            hit.add(i)
            used.add(j)
    return Counted(len(there), len(hit), len(boxes) - len(used))


def iou(a: Box, b: Box) -> float:
    """Intersection over union."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((right - left) * (bottom - top) for left, top, right, bottom in (a, b))
    return width * height / (areas - width * height)
