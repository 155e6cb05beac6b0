"""What a detector is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from PIL import Image

from ..faces import Face

# Called with an RGB picture; returns the faces in it, in any order, `roll` left at 0. `detect_faces` enlarges, cuts
# into tiles and looks twice: a detector need not.
Detector = Callable[[Image.Image], list[Face]]

_LEAST = 1e-3  # pixels between the eyes: of points that are all one, what rounding leaves


class DetectorError(RuntimeError):
    """A detector's library failed at a picture."""


def found_face(
    left: float, top: float, width: float, height: float, score: float, points: tuple[tuple[float, float], ...]
) -> Face | None:
    """The face of a box and five points; None where there is nothing in the box or the points are all one."""
    if not (width > 0 and height > 0):
        return None
    face = Face((left, top, left + width, top + height), score, points)
    return face if face.eye_distance > _LEAST else None


@contextmanager
def in_one_line(error_type: type[Exception] | tuple[type[Exception], ...], name: str) -> Iterator[None]:
    """Turns a library's own errors into DetectorError, or MemoryError for a full memory, of one line."""
    try:
        yield
    except error_type as error:
        reason = " ".join(str(error).split())
        kind = MemoryError if "memory" in reason.lower() else DetectorError
        raise kind(f"detector {name} failed: {reason}") from error
