"""Pictures in, pictures out: faces of 16x16 (`upscale_images`, `upscale`) and photographs (`restore_files`)."""

from __future__ import annotations

from .files import UpscaleConfig, upscale
from .images import upscale_images
from .photographs import RestoreConfig, restore_files

__all__ = ["RestoreConfig", "UpscaleConfig", "restore_files", "upscale", "upscale_images"]
