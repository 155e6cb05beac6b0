"""The small faces of photographs, restored and pasted back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from PIL import Image
from torch import nn

from ..data.degradation import enlarge
from .detectors import open_detector
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
    """An enlarged photograph."""

    image: Image.Image
    faces: list[RestoredFace]


@dataclass(frozen=True)
class RestoreOptions:
    """How photographs are restored."""

    scale: int = 4
    faces: tuple[int, ...] | None = None
    min_score: float = 0.5
    max_faces: int | None = None
    background: Literal["lanczos", "bicubic", "none"] = "lanczos"
    blend: float = 1.0
    ensemble: Literal["none", "flip"] = "none"
    batch_size: int = 8
    autocast: bool = False


def restore_photographs(
    model: nn.Module, images: Sequence[Image.Image], *, detector: Any = "auto", **options: Any
) -> list[Restored]:
    """Each photograph, enlarged, with its faces restored."""
    chosen = RestoreOptions(**options)
    find = open_detector(detector) if isinstance(detector, str) else detector
    found = find if isinstance(find, list) else [find(image.convert("RGB")) for image in images]
    return [_restore(model, image, faces, chosen) for image, faces in zip(images, found, strict=True)]


def _restore(model: nn.Module, image: Image.Image, found: list[Face], options: RestoreOptions) -> Restored:
    size = (image.width * options.scale, image.height * options.scale)
    result = image.resize(size, Image.Resampling.LANCZOS)
    faces = []
    if options.faces and max(options.faces) > len(found):
        raise ValueError(f"there is no face {max(options.faces)}; the picture has {len(found)}")
    for number, face in enumerate(found, 1):
        if options.faces and number not in options.faces:
            faces.append(RestoredFace(number, face, "left out", "not chosen", None, None, None, None))
            continue
        lr = image.convert("RGB").resize((16, 16), Image.Resampling.BICUBIC, face.box)
        restored = upscale_images(model, [lr])[0]
        left, top, right, bottom = (round(side * options.scale) for side in face.box)
        result.paste(restored.resize((right - left, bottom - top)).convert(result.mode), (left, top))
        scale = (face.box[2] - face.box[0]) / 16
        faces.append(RestoredFace(number, face, "restored", None, scale, lr, enlarge(lr), restored))
    return Restored(result, faces)
