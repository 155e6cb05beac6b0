"""The pictures that are measured on, all from the folder AMINET_FACES."""

from __future__ import annotations

import csv
import os
import statistics
from pathlib import Path

from PIL import Image

from aminet_fast.restoration import Detector, detect_faces

from .planted import Original

Box = tuple[float, float, float, float]  # left, top, right, bottom

_TEST = ("test_a", "test_b")
_PORTRAITS = 36  # of test_a and test_b together


class NoPicturesError(Exception):
    """There is nothing to measure on; one line says what is missing."""


def root() -> Path:
    """AMINET_FACES. Raises NoPicturesError where it is not set or names no folder."""
    given = os.environ.get("AMINET_FACES", "")
    if not given or not Path(given).is_dir():
        what = f"is {given!r}, which is no folder" if given else "is not set"
        raise NoPicturesError(
            f"AMINET_FACES {what}; it names a folder with test_a, test_b and wild (docs/benchmarks.md)"
        )
    return Path(given)


def portraits(detector: Detector, count: int | None = _PORTRAITS) -> list[Original]:
    """Every n-th face of test_a and test_b, `count` in all (None: all of them), with its points by the detector.

    Raises NoPicturesError.
    """
    found = []
    for folder in _TEST:
        files = sorted((root() / folder).glob("*.jpg"))
        wanted = len(files) if count is None else -(-count // len(_TEST))
        found += files[:: max(1, len(files) // max(1, wanted))][:wanted]
    if not found:
        raise NoPicturesError(f"no .jpg in {root()}/test_a or test_b")
    return [one for one in (_portrait(path, detector) for path in found) if one is not None]


def _portrait(path: Path, detector: Detector) -> Original | None:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    faces = detect_faces(rgb, detector)
    return Original(rgb, max(faces, key=lambda face: face.eye_distance).places) if faces else None


def wild(quick: bool) -> dict[str, list[Box]]:
    """The boxes of the faces in each photograph, by the file's path; where `quick`, of the smallest photograph and
    the one with the smallest faces.

    Raises NoPicturesError.
    """
    folder = root() / "wild"
    listed = folder / "faces.csv"
    if not listed.is_file():
        raise NoPicturesError(f"{listed} is not there; it has file,x,y,w,h for each face of the photographs beside it")
    boxes: dict[str, list[Box]] = {}
    with listed.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            x, y, w, h = (float(row[name]) for name in "xywh")
            boxes.setdefault(str(folder / row["file"]), []).append((x, y, x + w, y + h))
    names = {min(boxes, key=_pixels), min(boxes, key=lambda name: _width(boxes[name]))} if quick else set(boxes)
    return {name: boxes[name] for name in sorted(names)}


def _width(boxes: list[Box]) -> float:
    return statistics.median(right - left for left, _, right, _ in boxes)


def _pixels(name: str) -> int:
    with Image.open(name) as image:
        return image.width * image.height


def photograph(name: str) -> Image.Image:
    """RGB of a file."""
    with Image.open(name) as image:
        return image.convert("RGB")
