"""Faces: reading pictures, the public data sets, the cache, the drawn faces, and resumable batches."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import DataConfig as DataConfig
    from .config import DataError as DataError
    from .degradation import degrade as degrade
    from .drawn import draw_face as draw_face
    from .faces import FaceDataset as FaceDataset
    from .faces import open_faces as open_faces
    from .images import ImageError as ImageError
    from .images import Picture as Picture
    from .images import center_crop as center_crop
    from .images import find_images as find_images
    from .images import read_image as read_image
    from .images import to_image as to_image
    from .images import to_tensor as to_tensor
    from .photo import sample_face as sample_face
    from .photo import sample_photograph as sample_photograph
    from .photo import sample_scene as sample_scene
    from .sampler import StepSampler as StepSampler

# Loaded with the first use: the processes that draw faces are to start without torch.
_HOME = {
    "DataConfig": "config",
    "DataError": "config",
    "FaceDataset": "faces",
    "ImageError": "images",
    "Picture": "images",
    "StepSampler": "sampler",
    "center_crop": "images",
    "degrade": "degradation",
    "draw_face": "drawn",
    "find_images": "images",
    "open_faces": "faces",
    "read_image": "images",
    "sample_face": "photo",
    "sample_photograph": "photo",
    "sample_scene": "photo",
    "to_image": "images",
    "to_tensor": "images",
}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
