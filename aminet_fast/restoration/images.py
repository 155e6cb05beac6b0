"""Faces of any size in, as many times as large out as the weights say: PIL in, PIL out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from os import PathLike

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import to_tensor
from ..data.degradation import enlarge
from ..data.images import to_grey
from ..network.expects import expects_of
from ..network.inference import Ensemble, check_ensemble, evaluating, restore
from ..network.runner import Runner
from .tiling import process_tiles

_FACE = 128 * 128  # output pixels of one face; batch_size counts in these
_OVERLAP = 8  # LR pixels that neighbouring tiles share


def upscale_images(
    model: nn.Module | Runner,
    images: Sequence[Image.Image],
    *,
    batch_size: int = 8,
    tile: int = 64,
    autocast: bool = False,
    ensemble: Ensemble = "none",
) -> list[Image.Image]:
    """Enlarges pictures with a network, as many times as its weights expect: 8 unless they say otherwise.

    Each picture is enlarged by Pillow's bicubic, as in training, and restored by the network; pictures of
    one size share a batch. Alpha is enlarged by bicubic.

    Args:
        model: takes and returns [N, 3, H, W] in [-1, 1], H and W multiples of 16; used where it is, in eval
            mode, and left in the mode it was in. Or what `graph` returned for one, and pictures of its example's size.
        images: LR pictures of any size; RGB, or another mode, which is converted as `read_image` does it: 16-bit grey
            is scaled, not clipped. They are taken as they lie; `ImageOps.exif_transpose` turns a photograph upright.
        batch_size: results of 128x128 at a time; of larger ones fewer go together.
        tile: pictures with a side above this are processed in overlapping tiles of this side; 0 never tiles.
        autocast: run the network in bfloat16 autocast.
        ensemble: "flip" averages the results of each picture and its mirror image, as `restore` does; twice the time.

    Returns:
        In the order of `images`, RGB (RGBA where there was transparency), sides times ``model.expects.scale``.

    Raises:
        ValueError: `tile` is negative or below 16, `batch_size` below 1, `ensemble` another, a picture has no pixels,
            the network returned NaN or infinity, or its weights expect other pictures than these become (`Expects`).
        TypeError: `images` is a single picture, a path or an array, or holds something else than PIL pictures.
        ImageError: a picture of 32-bit numbers has values that are no levels.
    """
    if tile != 0 and tile < 16:
        raise ValueError(f"tile is {tile}, wanted 0 (no tiles) or at least 16 pixels")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, wanted at least 1")
    check_ensemble(ensemble)
    results: dict[int, Image.Image] = {}
    by_size: dict[tuple[int, int], list[int]] = {}
    _check_images(images)
    images = [_eight_bits(index, image) for index, image in enumerate(images)]
    for index, image in enumerate(images):
        by_size.setdefault(image.size, []).append(index)

    scale, overlap = expects_of(model).scale, min(_OVERLAP, tile // 2)
    network = partial(restore, model, autocast=autocast, ensemble=ensemble)
    with evaluating(model):
        for size, indices in by_size.items():
            tiled = bool(tile) and max(size) > tile
            together = 1 if tiled else _together(size[0] * size[1] * scale**2, batch_size)
            for first in range(0, len(indices), together):
                part = indices[first : first + together]
                inputs = [enlarge(images[i].convert("RGB"), scale) for i in part]
                if tiled:
                    outputs = [_tiled(network, inputs[0], tile * scale, overlap * scale, batch_size)]
                else:
                    outputs = [Image.fromarray(_round(y)) for y in _run(network, inputs)]
                results |= zip(part, outputs, strict=True)
    return [_with_alpha(results[i], image, scale) for i, image in enumerate(images)]


def _together(pixels: int, batch_size: int) -> int:
    """How many pictures of so many output pixels make a batch of about `batch_size` faces."""
    return max(1, min(batch_size, batch_size * _FACE // pixels))


def _run(network: Callable[[Tensor], Tensor], inputs: Sequence[Image.Image]) -> list[np.ndarray]:
    """Restores bicubic-enlarged pictures of one size: float32 [h, w, 3] levels for each, not clamped."""
    x = torch.stack([to_tensor(image) for image in inputs])  # [N, 3, H, W]
    y = network(x)
    if not bool(torch.isfinite(y).all()):
        raise ValueError("the network returned NaN or infinite values; its weights are broken")
    return list(((y + 1.0) * 127.5).permute(0, 2, 3, 1).numpy())


def _round(levels: np.ndarray) -> np.ndarray:
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def _tiled(
    network: Callable[[Tensor], Tensor], image: Image.Image, side: int, overlap: int, batch_size: int
) -> Image.Image:
    together = _together(side * side, batch_size)

    def process(tiles: list[Image.Image]) -> list[np.ndarray]:
        parts = [tiles[i : i + together] for i in range(0, len(tiles), together)]
        return [levels for part in parts for levels in _run(network, part)]

    return process_tiles(image, process, tile=side, overlap=overlap)


def _check_images(images: object) -> None:
    if isinstance(images, Image.Image):
        raise TypeError("images is one picture, wanted a list of PIL pictures: put it in brackets")
    if isinstance(images, (str, bytes, PathLike)):
        raise TypeError(f"images is a {type(images).__name__}, wanted a list of PIL pictures, as Image.open reads them")
    if not isinstance(images, Iterable) or hasattr(images, "__array__"):
        how = ", as Image.fromarray makes them" if hasattr(images, "__array__") else ""
        raise TypeError(f"images is a {type(images).__name__}, wanted a list of PIL pictures{how}")


def _eight_bits(index: int, image: object) -> Image.Image:
    if not isinstance(image, Image.Image):
        how = "Image.fromarray makes one" if hasattr(image, "__array__") else "Image.open reads one"
        raise TypeError(f"picture {index} is a {type(image).__name__}, wanted a PIL picture; {how}")
    if min(image.size) < 1:
        raise ValueError(f"picture {index} is {image.width}x{image.height} pixels, wanted at least 1x1")
    wide = image.mode.startswith("I") or image.mode == "F"  # Pillow's own convert clips them at 255
    return to_grey(f"picture {index}", image) if wide else image


def _with_alpha(result: Image.Image, source: Image.Image, scale: int) -> Image.Image:
    """`result` with the enlarged alpha of `source`, if that has any transparency."""
    if source.has_transparency_data:
        result.putalpha(enlarge(source.convert("RGBA").getchannel("A"), scale))
    return result
