"""Faces of any size in, eight times as large out: ``upscale_images`` and ``aminet upscale``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..data import to_tensor
from ..data.degradation import enlarge
from ..data.images import to_grey
from ..network.inference import evaluating, restore
from .tiling import process_tiles

SCALE = 8
_FACE = 128 * 128  # output pixels of one face; batch_size counts in these
_OVERLAP = 8  # LR pixels that neighbouring tiles share


@dataclass
class UpscaleConfig:
    """Enlarges pictures eight times.

    Args:
        inputs: pictures, folders (with their subfolders) and globs such as 'faces/*.png'.
        out: folder for the results; names and subfolders are kept.
        weights: default (those that come with the package), run folder, pretrained folder, .safetensors file or
            checkpoint.
        lr_size: first shrink every picture until its short side has this many pixels, to try the network on
            pictures that are large already; the panel then shows the original as HR.
        format: keep the kind of file (GIF, PGM and PPM become PNG), or write png or jpg.
        force: overwrite results that exist.
        panel: also write this picture: LR, bicubic and AMINet (and HR) of the first eight, side by side.
        tile: input pictures with a side above this many pixels are processed in overlapping tiles of this
            side, which bounds the memory; 0 never tiles.
        batch_size: 16x16 faces at a time; of larger pictures fewer go together.
        device: auto, cpu, cuda, cuda:1, ...
        backend: what runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without
            it, AMINET_FAST_BACKEND, else auto.
        precision: fp32, or bf16 by autocast.
    """

    inputs: list[str] = field(default_factory=list)
    out: str = "upscaled"
    weights: str = "default"
    lr_size: int | None = None
    format: Literal["keep", "png", "jpg"] = "keep"
    force: bool = False
    panel: str | None = None
    tile: int = 64
    batch_size: int = 8
    device: str = "auto"
    backend: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"


def upscale_images(
    model: nn.Module,
    images: Sequence[Image.Image],
    *,
    batch_size: int = 8,
    tile: int = 64,
    autocast: bool = False,
) -> list[Image.Image]:
    """Enlarges pictures eight times with a network.

    Each picture is enlarged by Pillow's bicubic, as in training, and restored by the network; pictures of
    one size share a batch. Alpha is enlarged by bicubic.

    Args:
        model: takes and returns [N, 3, H, W] in [-1, 1], H and W multiples of 16; used where it is, in eval
            mode, and left in the mode it was in.
        images: LR pictures of any size; RGB, or another mode, which is converted as `read_image` does it: 16-bit grey
            is scaled, not clipped. They are taken as they lie; `ImageOps.exif_transpose` turns a photograph upright.
        batch_size: 16x16 faces at a time; of larger pictures fewer go together.
        tile: pictures with a side above this are processed in overlapping tiles of this side; 0 never tiles.
        autocast: run the network in bfloat16 autocast.

    Returns:
        In the order of `images`, RGB (RGBA where there was transparency), width and height times 8.

    Raises:
        ValueError: `tile` is negative or below 16, `batch_size` below 1, or the network returned NaN or
            infinity.
        ImageError: a picture of 32-bit numbers has values that are no levels.
    """
    if tile != 0 and tile < 16:
        raise ValueError(f"tile is {tile}, wanted 0 (no tiles) or at least 16 pixels")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, wanted at least 1")
    results: dict[int, Image.Image] = {}
    by_size: dict[tuple[int, int], list[int]] = {}
    images = [_eight_bits(index, image) for index, image in enumerate(images)]
    for index, image in enumerate(images):
        by_size.setdefault(image.size, []).append(index)

    with evaluating(model):
        for size, indices in by_size.items():
            tiled = bool(tile) and max(size) > tile
            together = 1 if tiled else _together(size[0] * size[1] * SCALE**2, batch_size)
            for first in range(0, len(indices), together):
                part = indices[first : first + together]
                inputs = [enlarge(images[i].convert("RGB"), SCALE) for i in part]
                if tiled:
                    outputs = [_tiled(model, inputs[0], tile, batch_size, autocast)]
                else:
                    outputs = [Image.fromarray(_round(y)) for y in _run(model, inputs, autocast)]
                results |= zip(part, outputs, strict=True)
    return [_with_alpha(results[i], image) for i, image in enumerate(images)]


def _together(pixels: int, batch_size: int) -> int:
    """How many pictures of so many output pixels make a batch of about `batch_size` faces."""
    return max(1, min(batch_size, batch_size * _FACE // pixels))


def _run(model: nn.Module, inputs: Sequence[Image.Image], autocast: bool) -> list[np.ndarray]:
    """Restores bicubic-enlarged pictures of one size: float32 [h, w, 3] levels for each, not clamped."""
    x = torch.stack([to_tensor(image) for image in inputs])  # [N, 3, H, W]
    y = restore(model, x, autocast=autocast)
    if not bool(torch.isfinite(y).all()):
        raise ValueError("the network returned NaN or infinite values; its weights are broken")
    return list(((y + 1.0) * 127.5).permute(0, 2, 3, 1).numpy())


def _round(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _tiled(model: nn.Module, image: Image.Image, tile: int, batch_size: int, autocast: bool) -> Image.Image:
    side, overlap = tile * SCALE, min(_OVERLAP, tile // 2) * SCALE
    together = _together(side * side, batch_size)

    def process(tiles: list[Image.Image]) -> list[np.ndarray]:
        parts = [tiles[i : i + together] for i in range(0, len(tiles), together)]
        return [levels for part in parts for levels in _run(model, part, autocast)]

    return process_tiles(image, process, tile=side, overlap=overlap)


def _eight_bits(index: int, image: Image.Image) -> Image.Image:
    wide = image.mode.startswith("I") or image.mode == "F"  # Pillow's own convert clips them at 255
    return to_grey(f"picture {index}", image) if wide else image


def _with_alpha(result: Image.Image, source: Image.Image) -> Image.Image:
    """`result` with the enlarged alpha of `source`, if that has any transparency."""
    if source.has_transparency_data:
        result.putalpha(enlarge(source.convert("RGBA").getchannel("A"), SCALE))
    return result


def upscale(config: UpscaleConfig) -> int:
    """Runs ``aminet upscale``.

    Returns:
        Exit status: 0, or 1 when some picture failed or the work had to stop, after saying why.

    Raises:
        ValueError, OSError: settings, inputs, weights or folders that cannot be; nothing was done then.
    """
    from .files import run

    return run(config)
