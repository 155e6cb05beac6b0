"""Faces: reading pictures, the public data sets, the cache, the drawn faces, and resumable batches."""

from __future__ import annotations

from ..drawn import draw_face
from .config import DataConfig, DataError
from .degrade import degrade
from .faces import FaceDataset, open_faces
from .images import ImageError, Picture, center_crop, find_images, read_image, to_image, to_tensor
from .photo import sample_face, sample_photograph
from .sampler import StepSampler

__all__ = [
    "DataConfig",
    "DataError",
    "FaceDataset",
    "ImageError",
    "Picture",
    "StepSampler",
    "center_crop",
    "degrade",
    "draw_face",
    "find_images",
    "open_faces",
    "read_image",
    "sample_face",
    "sample_photograph",
    "to_image",
    "to_tensor",
]
