"""Restored faces put into the enlarged photograph, by a soft ellipse around each face, without a seam."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from ..data.warp import crop
from ..network.expects import Template
from .align import Pose
from .consistency import add_missing, match_averages
from .two_passes import Grid

Background = Literal["lanczos", "bicubic", "none"]
RESAMPLINGS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "none": Image.Resampling.NEAREST,
}
# The ellipse of a face, in eye distances from the eyes' middle: where its centre lies below, its half axes, and the
# share of these from which the restored face fades out.
_BELOW, _HALF_WIDTH, _HALF_HEIGHT, _INNER = 0.35, 1.25, 1.55, 0.62


class Patch(NamedTuple):
    """A piece of the result: where it begins (x, y), its levels float32 [h, w, 3], what they count [h, w] in 0 to 1."""

    left: int
    top: int
    levels: np.ndarray
    share: np.ndarray


def patch_of(
    photograph: Image.Image, levels: np.ndarray, grid: Grid, pose: Pose, template: Template, *, scale: int, blend: float
) -> Patch | None:
    """A face as it goes into the photograph enlarged `scale` times; None where it lies outside of the picture.

    Where `grid` has the photograph's own pixels, averages over scale x scale blocks are these, but for rounding and
    clipping, wherever the face counts in full. A larger face, of which the network saw fewer pixels, gets back what the
    photograph knows beyond them.

    Args:
        photograph: RGB.
        levels: float32 [side * k, side * k, 3], the restored face over `grid`.
        blend: what the face counts in its middle, 0 to 1.
    """
    # Whole pixels of the photograph under the grid.
    left, top = math.ceil(grid.origin.real - 1e-6), math.ceil(grid.origin.imag - 1e-6)
    length = math.floor(grid.side * grid.pitch + 1e-6 - max(left - grid.origin.real, top - grid.origin.imag))
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + length, photograph.width), min(top + length, photograph.height)
    if x0 >= x1 or y0 >= y1:
        return None
    size = (length * scale, length * scale)
    part = _over(levels, grid, left, top, size, scale)
    own = np.asarray(crop(photograph, left, top, left + length, top + length), np.float32)
    part = match_averages(part, own) if grid.pitch == 1.0 else add_missing(part, own)
    inside = (slice((y0 - top) * scale, (y1 - top) * scale), slice((x0 - left) * scale, (x1 - left) * scale))
    share = blend * ellipse(pose, template, x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale, scale)
    return Patch(x0 * scale, y0 * scale, part[inside], share)


def _over(levels: np.ndarray, grid: Grid, left: int, top: int, size: tuple[int, int], scale: int) -> np.ndarray:
    """The levels in the result's pixels: averages where these are the coarser ones, else bicubic."""
    fine = grid.side * grid.pitch / len(levels)  # pixels of the photograph along one of the levels
    x, y = (max(0.0, place / fine) for place in (left - grid.origin.real, top - grid.origin.imag))
    box = (x, y, min(x + size[0] / scale / fine, len(levels)), min(y + size[1] / scale / fine, len(levels)))
    resampling = Image.Resampling.BOX if fine * scale < 1 else Image.Resampling.BICUBIC
    planes = [Image.fromarray(np.ascontiguousarray(levels[..., c])) for c in range(levels.shape[2])]
    return np.stack([np.asarray(plane.resize(size, resampling, box)) for plane in planes], axis=-1)


def ellipse(pose: Pose, template: Template, left: int, top: int, width: int, height: int, scale: int) -> np.ndarray:
    """What a face counts in a box of the enlarged photograph: float32 [height, width], 1 inside, 0 outside."""
    x, y = np.meshgrid(np.arange(left, left + width) + 0.5, np.arange(top, top + height) + 0.5)
    frame = ((x + 1j * y) / scale - pose.origin) / pose.turn  # shares of the frame
    return ellipse_share(frame, template)


def ellipse_share(frame: np.ndarray, template: Template) -> np.ndarray:
    """What a face counts at points of its frame, complex shares of its side: float32, 1 inside, 0 outside."""
    eyes = (frame - complex(0.5, template.eye_height)) / template.eye_distance
    radius = np.hypot(eyes.real / _HALF_WIDTH, (eyes.imag - _BELOW) / _HALF_HEIGHT)
    outside = ((radius - _INNER) / (1 - _INNER)).clip(0, 1)
    return (1 - outside**2 * (3 - 2 * outside)).astype(np.float32)  # smooth at both ends


def paste(result: Image.Image, patch: Patch) -> None:
    """Blends a patch into the RGB picture, in place: share * levels + (1 - share) * what is there, rounded once."""
    height, width = patch.share.shape
    box = (patch.left, patch.top, patch.left + width, patch.top + height)
    there = np.asarray(result.crop(box), np.float32)
    share = patch.share[..., None]
    mixed = share * patch.levels.clip(0, 255) + (1 - share) * there
    result.paste(Image.fromarray(np.rint(mixed).clip(0, 255).astype(np.uint8)), box)


def enlarge_photograph(photograph: Image.Image, scale: int, background: Background = "lanczos") -> Image.Image:
    """The photograph enlarged `scale` times without its faces; "none" repeats its pixels."""
    size = (photograph.width * scale, photograph.height * scale)
    return photograph.resize(size, RESAMPLINGS[background])
