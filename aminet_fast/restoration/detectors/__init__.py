"""Finding faces."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from ..faces import Face

Detector = Callable[[Image.Image], list[Face]]


def open_detector(name: str = "auto") -> Detector:
    """The detector of that name."""
    if name != "auto":
        raise ValueError(f"there is no detector {name!r}")
    return lambda image: []
