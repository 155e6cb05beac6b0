"""A photograph in, the photograph out: its small faces found, restored and put back (`aminet restore`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import nn

from ..data.degradation import enlarge
from ..network.expects import Template
from ..network.inference import Ensemble, check_ensemble
from .align import Pose, pose_of, template_of
from .detect import detect_faces, to_rgb
from .detectors import Detector, open_detector
from .face_network import FaceNetwork
from .faces import Face, by_position
from .paste import RESAMPLINGS, Background, Patch, ellipse_share, enlarge_photograph, paste, patch_of
from .two_passes import Passed, restore_faces

Status = Literal["restored", "left out"]
MAX_ROLL = 40.0  # degrees; a face that is turned by 30 is seen at 20 to 40
SMALLEST_EYES, LARGEST_EYES = 2.0, 21.0  # pixels between the eyes
_VISIBLE = 0.6  # of a face's ellipse that lies in the picture
_SCALES = (2, 8)  # at 1 nothing can be added: a face's averages over single pixels are the photograph's
_STEPS = 64  # points along a side by which it is judged
_TOGETHER = 256  # faces restored at a time, which bounds the memory: about 2.5 MB each


@dataclass(frozen=True)
class RestoreOptions:
    """What `restore_photograph` is told.

    Args:
        scale: sides of the result over those of the photograph, 2 to 8.
        faces: numbers of the faces to restore; None: all.
        min_score: faces that the detector gives a lower score, from 0 to 1, are not faces.
        max_faces: restore this many at most, those of the highest scores; None: all.
        background: how the photograph around the faces is enlarged: lanczos, bicubic, or none (pixels repeated).
        blend: what a restored face counts over the enlarged one, 0 to 1.
        ensemble: "flip" averages what the network makes of a face and of its mirror image, in twice the time.
        batch_size: faces at a time.
        autocast: run the network in bfloat16 autocast.

    Raises ValueError, TypeError: an option is none of these; the message names it.
    """

    scale: int = 4
    faces: tuple[int, ...] | None = None
    min_score: float = 0.6
    max_faces: int | None = None
    background: Background = "lanczos"
    blend: float = 1.0
    ensemble: Ensemble = "none"
    batch_size: int = 8
    autocast: bool = False

    def __post_init__(self) -> None:
        if type(self.scale) is not int or not _SCALES[0] <= self.scale <= _SCALES[1]:
            raise ValueError(f"scale is {self.scale!r}, wanted a whole number from {_SCALES[0]} to {_SCALES[1]}")
        if self.faces is not None:
            numbers = tuple(self.faces)
            if not numbers or not all(type(number) is int and number >= 1 for number in numbers):
                raise ValueError(f"faces is {self.faces!r}, wanted numbers from 1 up, as (3, 7)")
            object.__setattr__(self, "faces", numbers)
        for name in ("min_score", "blend"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted 0 to 1")
        if self.max_faces is not None and self.max_faces < 0:
            raise ValueError(f"max_faces is {self.max_faces}, wanted 0 or more")
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}, wanted at least 1")
        if self.background not in RESAMPLINGS:
            raise ValueError(f"background is {self.background!r}, wanted one of {', '.join(RESAMPLINGS)}")
        check_ensemble(self.ensemble)


@dataclass(frozen=True)
class RestoredFace:
    """One face of a photograph and what became of it.

    Args:
        number: 1, 2, ... by position: rows from the top, left to right in a row.
        face: where it is.
        status: "restored" or "left out".
        reason: why it was left out, or None.
        scale: pixels of the photograph for one of the network's LR picture, or None.
        lr: what the network was given: upright, framed as its weights expect, RGB of 16x16 pixels, or more where the
            photograph has more; None where left out.
        bicubic: that enlarged by bicubic, RGB, as many times as the weights enlarge (the package's: 8).
        restored: the network's picture, of that size, whose averages over blocks are `lr` but for rounding and
            clipping.
    """

    number: int
    face: Face
    status: Status
    reason: str | None = None
    scale: float | None = None
    lr: Image.Image | None = None
    bicubic: Image.Image | None = None
    restored: Image.Image | None = None


@dataclass(frozen=True)
class Restored:
    """A restored photograph.

    Args:
        image: `scale` times as large as the photograph; L for grey, RGB for other modes, and LA or RGBA where it had
            any transparency.
        faces: all faces found, by number.
    """

    image: Image.Image
    faces: list[RestoredFace]
    _photograph: Image.Image = field(repr=False)
    _options: RestoreOptions = field(repr=False)

    @property
    def before(self) -> Image.Image:
        """The photograph enlarged as the background is, without restored faces; made anew at each call."""
        enlarged = enlarge_photograph(to_rgb(self._photograph), self._options.scale, self._options.background)
        return _as_given(enlarged, self._photograph, self._options)


def restore_photograph(
    model: nn.Module | FaceNetwork,
    image: Image.Image,
    *,
    detector: str | Detector | Sequence[Face] = "auto",
    **options: Any,
) -> Restored:
    """Restores the small faces of a photograph: eyes 2 to 21 pixels apart, turned by up to 30 degrees.

    Args:
        model: an AMINet, or a `FaceNetwork` to be used for several calls (made with batch_size, autocast and ensemble,
            which are left out here).
        image: a PIL picture of any mode, upright (`ImageOps.exif_transpose` turns a photograph).
        detector: as `detect_faces` takes it, or the faces themselves.
        options: fields of `RestoreOptions`.

    Returns:
        The picture, and all faces that were found with what was done. The same picture, faces and model give the same
        result.

    Raises:
        TypeError, ValueError: an option, the picture or the detector is none; `faces` names one that is not there.
        ImportError: no detector is installed; ends in the line to type.
    """
    found = detector if isinstance(detector, str) or callable(detector) else [list(detector)]
    return restore_photographs(model, [image], detector=found, **options)[0]


def restore_photographs(
    model: nn.Module | FaceNetwork,
    images: Sequence[Image.Image],
    *,
    detector: str | Detector | Sequence[Sequence[Face]] = "auto",
    **options: Any,
) -> list[Restored]:
    """As `restore_photograph` for several pictures, whose faces share the network's batches.

    `detector` may be a list of faces for each picture. Memory: the pictures and results, and about 700 MB.
    """
    known = {option.name for option in dataclasses.fields(RestoreOptions)}
    if unknown := sorted(set(options) - known):
        raise TypeError(f"restore_photographs has no option {', '.join(unknown)}; it takes {', '.join(sorted(known))}")
    chosen = RestoreOptions(**options)
    if isinstance(model, FaceNetwork) and (given := sorted(set(options) & {"batch_size", "autocast", "ensemble"})):
        raise TypeError(f"{', '.join(given)}: what the FaceNetwork was made with stands; give the model instead")
    if isinstance(images, Image.Image):
        raise TypeError("images is one picture, wanted a list: use restore_photograph, or put it in brackets")
    network = model if isinstance(model, FaceNetwork) else _network(model, chosen)
    rgb = [to_rgb(image) for image in images]
    found = _found(rgb, detector, chosen)
    template = template_of(network.expects)
    decided = [_decide(faces, picture, template, chosen) for faces, picture in zip(found, rgb, strict=True)]
    results = [enlarge_photograph(picture, chosen.scale, chosen.background) for picture in rgb]
    done = _restore(network, rgb, decided, results, template, chosen)
    return [
        Restored(_as_given(result, image, chosen), faces, image, chosen)
        for result, image, faces in zip(results, images, done, strict=True)
    ]


def _network(model: nn.Module, options: RestoreOptions) -> FaceNetwork:
    return FaceNetwork(model, batch_size=options.batch_size, autocast=options.autocast, ensemble=options.ensemble)


def _found(
    pictures: Sequence[Image.Image], detector: str | Detector | Sequence[Sequence[Face]], options: RestoreOptions
) -> list[list[Face]]:
    if isinstance(detector, str) or callable(detector):
        find = open_detector(detector) if isinstance(detector, str) else detector
        return [detect_faces(picture, find, min_score=options.min_score) for picture in pictures]
    if len(detector) != len(pictures):
        raise ValueError(f"detector has faces of {len(detector)} pictures, wanted a list for each of {len(pictures)}")
    return [by_position([face for face in faces if face.score >= options.min_score]) for faces in detector]


def _decide(
    faces: Sequence[Face], picture: Image.Image, template: Template, options: RestoreOptions
) -> list[RestoredFace]:
    """Numbers the faces, and says of each whether it will be restored, and if not, why."""
    if options.faces is not None and (wrong := [n for n in options.faces if n > len(faces)]):
        there = {0: "no face was", 1: "one face was"}.get(len(faces), f"{len(faces)} faces were")
        raise ValueError(
            f"faces names {', '.join(map(str, wrong))}, and {there} found; leave faces out to see them all"
        )
    reasons = [_reason(number, face, picture, template, options) for number, face in enumerate(faces, 1)]
    if options.max_faces is not None:
        able = [index for index, reason in enumerate(reasons) if reason is None]
        for index in sorted(able, key=lambda i: (-faces[i].score, i))[options.max_faces :]:
            reasons[index] = f"more than max_faces ({options.max_faces})"
    return [
        RestoredFace(number, face, "left out" if reason else "restored", reason)
        for number, (face, reason) in enumerate(zip(faces, reasons, strict=True), 1)
    ]


def _reason(number: int, face: Face, picture: Image.Image, template: Template, options: RestoreOptions) -> str | None:
    if options.faces is not None and number not in options.faces:
        return "not chosen"
    if abs(face.roll) > MAX_ROLL:
        return f"turned by {abs(face.roll):.0f} degrees (up to 30 are restored)"
    distance = face.eye_distance
    if distance < SMALLEST_EYES:
        return f"too small: eyes {distance:.1f} pixels apart (at least {SMALLEST_EYES:g})"
    if distance > LARGEST_EYES:
        return (
            f"too large: eyes {distance:.0f} pixels apart (at most {LARGEST_EYES:g}: it has more detail than is added)"
        )
    if visible(pose_of(face, template), template, picture) < _VISIBLE:
        return "cut off by the picture's border"
    return None


def visible(pose: Pose, template: Template, picture: Image.Image) -> float:
    """What part of a face's ellipse lies in the picture, by a grid of points: 0 to 1."""
    steps = (np.arange(_STEPS) + 0.5) / _STEPS * 2 - 0.5  # the ellipse lies within half a frame around it
    frame = steps + 1j * steps[:, None]
    share = ellipse_share(frame, template)
    places = pose.turn * frame + pose.origin
    inside = (places.real > 0) & (places.real < picture.width) & (places.imag > 0) & (places.imag < picture.height)
    return float(share[inside].sum() / share.sum())


def _restore(
    network: FaceNetwork,
    pictures: Sequence[Image.Image],
    decided: Sequence[Sequence[RestoredFace]],
    results: Sequence[Image.Image],
    template: Template,
    options: RestoreOptions,
) -> list[list[RestoredFace]]:
    """Restores what was decided, and pastes it into `results`, larger faces over smaller ones."""
    todo = [(place, face) for place, faces in enumerate(decided) for face in faces if face.status == "restored"]
    todo.sort(key=lambda one: (one[1].face.eye_distance, one[0], one[1].number))
    done = [list(faces) for faces in decided]
    for first in range(0, len(todo), _TOGETHER):
        part = todo[first : first + _TOGETHER]
        poses = [pose_of(face.face, template) for _, face in part]
        passed = restore_faces([pictures[place] for place, _ in part], poses, network, scale=network.expects.scale)
        for (place, face), pose, both in zip(part, poses, passed, strict=True):
            patch = _patch(pictures[place], both, pose, template, options)
            if patch is not None:
                paste(results[place], patch)
            done[place][face.number - 1] = _finished(face, both, pose, network.expects.scale)
    return done


def _patch(picture: Image.Image, both: Passed, pose: Pose, template: Template, options: RestoreOptions) -> Patch | None:
    return patch_of(picture, both.levels, both.grid, pose, template, scale=options.scale, blend=options.blend)


def _finished(face: RestoredFace, both: Passed, pose: Pose, scale: int) -> RestoredFace:
    lr = Image.fromarray(both.lr.astype(np.uint8))
    restored = Image.fromarray(np.rint(both.frame).clip(0, 255).astype(np.uint8))
    return dataclasses.replace(face, scale=pose.side / lr.width, lr=lr, bicubic=enlarge(lr, scale), restored=restored)


def _as_given(result: Image.Image, given: Image.Image, options: RestoreOptions) -> Image.Image:
    """RGB in the mode of what was given: grey for grey, with its alpha enlarged as the background is."""
    given = given.convert("LA") if given.mode == "La" else given
    alpha = given.convert("RGBA").getchannel("A") if given.has_transparency_data else None
    if given.mode in ("1", "L", "LA", "La", "F") or given.mode.startswith("I"):
        result = result.convert("L")
    if alpha is not None:
        result.putalpha(alpha.resize(result.size, RESAMPLINGS[options.background]))
    return result
