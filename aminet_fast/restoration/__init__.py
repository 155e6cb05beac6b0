"""Faces of 16x16 in, 128x128 out: PIL pictures, files, and every small face of a photograph."""

from __future__ import annotations

from .crop_files import AlignConfig, align_files
from .crops import AlignedFace, align_faces
from .detect import detect_faces
from .detectors import Detector, open_detector
from .face_network import FaceNetwork
from .faces import Face
from .files import UpscaleConfig, upscale
from .images import upscale_images
from .photograph import Restored, RestoredFace, RestoreOptions, restore_photograph, restore_photographs
from .photographs import RestoreConfig, restore_files

__all__ = [
    "AlignConfig",
    "AlignedFace",
    "Detector",
    "Face",
    "FaceNetwork",
    "RestoreConfig",
    "RestoreOptions",
    "Restored",
    "RestoredFace",
    "UpscaleConfig",
    "align_faces",
    "align_files",
    "detect_faces",
    "open_detector",
    "restore_files",
    "restore_photograph",
    "restore_photographs",
    "upscale",
    "upscale_images",
]
