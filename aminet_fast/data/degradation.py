"""The degradation of the face super-resolution papers: Pillow's bicubic, down and up again."""

from __future__ import annotations

from PIL import Image


def degrade(hr: Image.Image, scale: int = 8) -> tuple[Image.Image, Image.Image]:
    """HR picture to (lr, input): `Image.BICUBIC` (antialiased) down by `scale`, and bicubic up to HR's size.

    Both are 8-bit, as Pillow rounds them. Raises ValueError when a side does not divide by `scale`.
    """
    if scale < 1 or hr.width % scale or hr.height % scale:
        raise ValueError(f"degrade got {hr.width}x{hr.height} and scale {scale}; wanted sides that divide by it")
    lr = hr.resize((hr.width // scale, hr.height // scale), Image.Resampling.BICUBIC)
    return lr, enlarge(lr, scale)


def enlarge(lr: Image.Image, scale: int = 8) -> Image.Image:
    """The network's input: LR enlarged `scale` times by Pillow's bicubic."""
    return lr.resize((lr.width * scale, lr.height * scale), Image.Resampling.BICUBIC)
