"""Faces of 16x16 in, 128x128 out: PIL pictures (`upscale_images`) and files (`upscale`)."""

from __future__ import annotations

from .files import UpscaleConfig, upscale
from .images import upscale_images

__all__ = ["UpscaleConfig", "upscale", "upscale_images"]
