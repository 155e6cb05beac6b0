"""What a detector is."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from ..faces import Face

# Called with an RGB picture; returns the faces in it, in any order, `roll` left at 0. `detect_faces` enlarges, cuts
# into tiles and looks twice: a detector need not.
Detector = Callable[[Image.Image], list[Face]]
