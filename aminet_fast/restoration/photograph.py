"""A photograph's faces, restored and pasted back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import nn

from .detectors import Detector, open_detector
from .faces import Face
from .images import upscale_images

Status = Literal["restored", "left out"]


@dataclass(frozen=True)
class RestoredFace:
    """What became of a face."""

    number: int
    face: Face
    status: Status
    reason: str | None
    scale: float | None
    lr: Image.Image | None
    bicubic: Image.Image | None
    restored: Image.Image | None


@dataclass(frozen=True)
class Restored:
    """A restored photograph."""

    image: Image.Image
    before: Image.Image
    faces: list[RestoredFace]


@dataclass(frozen=True)
class RestoreOptions:
    """How a photograph is restored."""

    scale: int = 4
    faces: tuple[int, ...] | None = None
    min_score: float = 0.5
    max_faces: int | None = None
    background: Literal["lanczos", "bicubic", "none"] = "lanczos"
    blend: float = 1.0
    ensemble: Literal["none", "flip"] = "none"
    batch_size: int = 8
    autocast: bool = False


def restore_photograph(
    model: nn.Module, image: Image.Image, *, detector: str | Detector = "auto", **options: Any
) -> Restored:
    """The photograph, enlarged, with its faces restored."""
    how = RestoreOptions(**options)
    if not 1 <= how.scale <= 8:
        raise ValueError(f"scale is {how.scale}, wanted 1 to 8")
    found = (open_detector(detector) if isinstance(detector, str) else detector)(image.convert("RGB"))
    if unknown := [number for number in how.faces or () if not 1 <= number <= len(found)]:
        raise ValueError(f"there is no face {unknown[0]}; the picture has {len(found)}")
    kind = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC, "none": Image.Resampling.NEAREST}
    size = (image.width * how.scale, image.height * how.scale)
    before = image.resize(size, kind[how.background])
    result = before.copy()
    faces = [_restore(model, image, result, how, number, face) for number, face in enumerate(found, 1)]
    return Restored(result, before, faces)


def _restore(
    model: nn.Module, image: Image.Image, result: Image.Image, how: RestoreOptions, number: int, face: Face
) -> RestoredFace:
    reason = f"score below {how.min_score}" if face.score < how.min_score else None
    if how.faces is not None and number not in how.faces:
        reason = "not chosen"
    if face.eye_distance > 30:
        reason = "too large"
    if reason:
        return RestoredFace(number, face, "left out", reason, None, None, None, None)
    (x0, y0), (x1, y1) = face.points[:2]
    side = face.eye_distance / 0.33
    left, top = (x0 + x1) / 2 - side / 2, (y0 + y1) / 2 - 0.42 * side
    box = (left, top, left + side, top + side)
    lr = image.convert("RGB").transform((16, 16), Image.Transform.EXTENT, box, Image.Resampling.BICUBIC)
    bicubic = lr.resize((128, 128), Image.Resampling.BICUBIC)
    restored = upscale_images(model, [lr], batch_size=how.batch_size, autocast=how.autocast)[0]
    pasted = [round(edge * how.scale) for edge in box]
    patch = restored.resize((pasted[2] - pasted[0], pasted[3] - pasted[1]))
    mask = Image.radial_gradient("L").point(lambda v: 255 * (v < 150) * how.blend).resize(patch.size)
    result.paste(patch, (pasted[0], pasted[1]), mask)
    return RestoredFace(number, face, "restored", None, side / 16, lr, bicubic, restored)


def restore_photographs(
    model: nn.Module, images: list[Image.Image], *, detector: str | Detector = "auto", **options: Any
) -> list[Restored]:
    """The photographs, one by one."""
    return [restore_photograph(model, image, detector=detector, **options) for image in images]
