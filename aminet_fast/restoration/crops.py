"""Faces cut out of a photograph, upright and framed as training wants them (`aminet align`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..data.warp import warp_rounded
from ..network.expects import Template
from .align import DEFAULT, pose_of
from .detect import detect_faces, to_rgb
from .detectors import Detector
from .faces import Face, by_position
from .photograph import visible

LEAST_SIZE, MOST_SIZE = 16, 2048  # pixels of a crop's side
_VISIBLE = 0.9  # of a face's ellipse that lies in the picture


@dataclass(frozen=True)
class AlignedFace:
    """One face of a photograph and its crop.

    Args:
        number: 1, 2, ... by position: rows from the top, left to right in a row.
        face: where it is.
        side: pixels of the photograph along the crop's side.
        image: the crop, RGB, or None where it was left out.
        reason: why it was left out, or None.
    """

    number: int
    face: Face
    side: float
    image: Image.Image | None = None
    reason: str | None = None


def align_faces(
    image: Image.Image,
    *,
    detector: str | Detector | Sequence[Face] = "auto",
    template: Template = DEFAULT,
    size: int = 128,
    min_score: float = 0.6,
    min_eyes: float = 0.0,
    max_roll: float = 40.0,
    enlarge: bool = False,
) -> list[AlignedFace]:
    """The faces of a photograph, turned upright and cut out.

    Each crop is one antialiased bicubic resampling of the photograph. Where it reaches beyond the border, the edge is
    repeated.

    Args:
        image: a PIL picture of any mode, upright (`ImageOps.exif_transpose` turns a photograph).
        detector: as `detect_faces` takes it, or the faces themselves.
        template: where the eyes lie in a crop.
        size: pixels of a crop's side, 16 to 2048.
        min_score: what the detector scores lower, from 0 to 1, is no face.
        min_eyes: leave out faces whose eyes are less than so many pixels apart.
        max_roll: leave out faces turned by more degrees than this, 0 to 180.
        enlarge: also take faces of which the photograph has fewer than `size` pixels a side.

    Returns:
        All faces that were found, by position, also those left out.

    Raises:
        TypeError, ValueError, ImageError: the picture, the detector or an option is none.
        ImportError: no detector is installed; ends in the line to type.
    """
    check_options(size=size, min_score=min_score, min_eyes=min_eyes, max_roll=max_roll)
    picture = to_rgb(image)
    found = look_for(
        picture,
        detector=detector,
        template=template,
        size=size,
        min_score=min_score,
        min_eyes=min_eyes,
        max_roll=max_roll,
        enlarge=enlarge,
    )
    return [one if one.reason else replace(one, image=cut_out(picture, one.face, template, size)) for one in found]


def look_for(
    picture: Image.Image,
    *,
    detector: str | Detector | Sequence[Face],
    template: Template,
    size: int,
    min_score: float,
    min_eyes: float,
    max_roll: float,
    enlarge: bool,
) -> list[AlignedFace]:
    """As `align_faces` of an RGB picture, without the crops: `cut_out` makes them one at a time."""
    if isinstance(detector, str) or callable(detector):
        faces = detect_faces(picture, detector, min_score=min_score)
    else:
        faces = by_position([face for face in detector if face.score >= min_score])
    found = []
    for number, face in enumerate(faces, 1):
        side = face.eye_distance / template.eye_distance
        reason = _reason(face, side, size, min_eyes, max_roll, enlarge)
        if reason is None and visible(pose_of(face, template), template, picture) < _VISIBLE:
            reason = "cut off by the picture's border"
        found.append(AlignedFace(number, face, side, reason=reason))
    return found


def cut_out(picture: Image.Image, face: Face, template: Template, size: int) -> Image.Image:
    """The crop of a face in an RGB picture."""
    pose = pose_of(face, template)
    return warp_rounded(picture, pose.turn / size, pose.origin, (size, size))


def check_options(*, size: int, min_score: float, min_eyes: float, max_roll: float) -> None:
    """Raises ValueError for an option out of its range."""
    if type(size) is not int or not LEAST_SIZE <= size <= MOST_SIZE:
        raise ValueError(f"size is {size}, wanted whole pixels from {LEAST_SIZE} to {MOST_SIZE}")
    if not 0 <= min_score <= 1:
        raise ValueError(f"min_score is {min_score}, wanted 0 to 1")
    if not min_eyes >= 0:
        raise ValueError(f"min_eyes is {min_eyes}, wanted pixels from 0 on")
    if not 0 <= max_roll <= 180:
        raise ValueError(f"max_roll is {max_roll}, wanted degrees from 0 to 180")


def _reason(face: Face, side: float, size: int, min_eyes: float, max_roll: float, enlarge: bool) -> str | None:
    if abs(face.roll) > max_roll:
        return f"turned by {abs(face.roll):.0f} degrees"
    if face.eye_distance < max(min_eyes, 0.5):  # of nothing there is no crop
        return f"eyes {face.eye_distance:.1f} pixels apart"
    if side < size * (1 - 1e-6) and not enlarge:
        return f"too small: {side:.0f} pixels a side"
    return None
