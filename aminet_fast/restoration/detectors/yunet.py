"""YuNet (Wu et al. 2023; MIT), run by OpenCV from a model file of the user's."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
from PIL import Image

from ..faces import Face
from .detector import Detector, found_face, in_one_line

_LEAST, _OVERLAP, _MOST = 0.3, 0.3, 5000  # score, IoU that makes one of two faces, faces of a picture


def open_yunet(path: Path) -> Detector:
    """The detector. Raises ImportError when OpenCV is not there, ValueError when the file is no YuNet model."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError("a YuNet model needs OpenCV: pip install opencv-python-headless") from error
    try:
        network = cv2.FaceDetectorYN.create(str(path), "", (320, 320), _LEAST, _OVERLAP, _MOST)
        network.detect(np.zeros((320, 320, 3), np.uint8))
    except cv2.error as error:
        raise ValueError(f"detector {path} is no YuNet model that OpenCV {cv2.__version__} can run") from error
    lock = threading.Lock()  # one size at a time

    def detect(image: Image.Image) -> list[Face]:
        bgr = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])  # [H, W, 3]
        with lock, in_one_line(cv2.error, path.name):
            network.setInputSize(image.size)
            rows = network.detect(bgr)[1]
        found = [] if rows is None else np.asarray(rows, float).tolist()
        return [face for row in found if (face := _face(row)) is not None]

    return detect


def _face(row: list[float]) -> Face | None:
    left, top, width, height, *points, score = row
    return found_face(left, top, width, height, score, tuple((points[i], points[i + 1]) for i in range(0, 10, 2)))
