"""A public-domain photograph that scikit-image ships, and a scene of prints of it, for pictures and demonstrations."""

from __future__ import annotations

import cmath
import math
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from ..output.extras import missing

# left, top, right, bottom of the face: eyes level with CelebA's, about 0.3 of the side apart
FACE_BOX = (160, 38, 288, 166)


def sample_photograph() -> Image.Image:
    """The portrait of the astronaut Eileen Collins (NASA, public domain), PIL RGB 512x512.

    Raises ImportError naming the extra when scikit-image is not installed.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise missing("demo", "the sample photograph needs scikit-image, which ships it") from error
    return Image.fromarray(astronaut())


def sample_face(size: int = 128) -> Image.Image:
    """The face of `sample_photograph`, PIL RGB size x size, framed like CelebA's centre crop."""
    return sample_photograph().crop(FACE_BOX).resize((size, size), Image.Resampling.BICUBIC)


# Of the face in `sample_photograph`: eyes, nose, mouth corners, the left ones in the picture first.
FACE_POINTS = (203.2 + 102.0j, 245.2 + 105.1j, 221.4 + 125.2j, 203.5 + 141.8j, 239.6 + 145.6j)

_SCENE, _TIMES = (200, 150), 4  # pixels of the scene; how many times as large its original is
_PRINT = (105, 5, 345, 295)  # of the photograph: head and shoulders
_PAPER = (244, 242, 236)
_BORDER, _FOOT = 0.35, 0.95  # white paper around a print, in eye distances; below it


class _Print(NamedTuple):
    """A print on the board: middle and eye distance in the scene's pixels, turn in degrees, ink, mirrored or not."""

    middle: complex
    eyes: float
    roll: float
    ink: str
    mirrored: bool


_PRINTS = (
    _Print(27 + 33j, 6.0, -12, "colour", False),
    _Print(71 + 27j, 4.5, 8, "sepia", True),
    _Print(112 + 34j, 6.5, -6, "cool", False),
    _Print(164 + 42j, 8.0, 12, "colour", True),
    _Print(24 + 91j, 4.5, 14, "grey", False),
    _Print(62 + 82j, 7.0, -20, "colour", True),
    _Print(107 + 89j, 5.0, 18, "colour", False),
    _Print(147 + 106j, 6.0, -9, "grey", True),
    _Print(182 + 111j, 4.0, 10, "sepia", False),
    _Print(22 + 127j, 3.5, -7, "colour", True),
    _Print(64 + 123j, 4.0, 5, "cool", False),
    _Print(104 + 126j, 3.5, -15, "colour", True),
)


class Scene(NamedTuple):
    """A small photograph of faces.

    `photograph` is RGB 200x150, `original` 800x600, of which bicubic makes the photograph; `points` has five (x, y) for
    each face, in the photograph's pixels and in the order of a `Face`'s.
    """

    photograph: Image.Image
    original: Image.Image
    points: tuple[tuple[tuple[float, float], ...], ...]


def sample_scene() -> Scene:
    """Prints of `sample_photograph` pinned to a board: twelve faces, eyes 3.5 to 8 pixels apart, turned by up to 20
    degrees.

    Raises ImportError as `sample_photograph`.
    """
    portrait = sample_photograph().crop(_PRINT)
    original = _board((_SCENE[0] * _TIMES, _SCENE[1] * _TIMES))
    points = tuple(_pin(original, portrait, one) for one in _PRINTS)
    return Scene(original.resize(_SCENE, Image.Resampling.BICUBIC), original, points)


def _board(size: tuple[int, int]) -> Image.Image:
    """Cork, its grain drawn by a seeded generator."""
    rng = np.random.default_rng(0)
    levels = np.array([176.0, 134.0, 88.0]) * np.ones((size[1], size[0], 1))
    for cells, strength in ((6, 5.0), (60, 6.0), (200, 9.0)):
        grain = rng.normal(size=(cells * size[1] // size[0], cells)).astype(np.float32)
        levels += strength * np.asarray(Image.fromarray(grain).resize(size, Image.Resampling.BICUBIC))[..., None]
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))


def _pin(board: Image.Image, portrait: Image.Image, one: _Print) -> tuple[tuple[float, float], ...]:
    """Puts a print and its shadow on the board; returns where the face's points are in the scene."""
    points = [z - complex(*_PRINT[:2]) for z in FACE_POINTS]
    if one.mirrored:
        portrait = ImageOps.mirror(portrait)
        points = [portrait.width - points[i].conjugate() for i in (1, 0, 2, 4, 3)]
    per_eye = abs(points[1] - points[0])
    border, foot = round(_BORDER * per_eye), round(_FOOT * per_eye)
    paper = Image.new("RGB", (portrait.width + 2 * border, portrait.height + border + foot), _PAPER)
    paper.paste(_inked(portrait, one.ink), (border, border))
    ImageDraw.Draw(paper).ellipse([paper.width // 2 - 5, 5, paper.width // 2 + 5, 15], fill=(190, 40, 40))
    # The paper's pixel z lies at turn * z + origin in a window of the board.
    turn = cmath.rect(one.eyes * _TIMES / per_eye, math.radians(one.roll))
    half = math.ceil(abs(turn) * math.hypot(*paper.size) / 2) + 4 * _TIMES
    corner = complex(round(one.middle.real * _TIMES) - half, round(one.middle.imag * _TIMES) - half)
    origin = one.middle * _TIMES - corner - turn * complex(paper.width, paper.height) / 2
    place, window = (int(corner.real), int(corner.imag)), (2 * half, 2 * half)
    shadow = _turned(Image.new("L", paper.size, 110), turn, origin + _TIMES * (0.5 + 0.8j), window)
    blurred = shadow.filter(ImageFilter.GaussianBlur(0.8 * _TIMES))
    board.paste(Image.new("RGB", window, (40, 25, 10)), place, blurred)
    covered = _turned(Image.new("L", paper.size, 255), turn, origin, window)
    board.paste(_turned(paper, turn, origin, window, _PAPER), place, covered)
    offset = complex(border, border)
    places = [(turn * (z + offset) + origin + corner) / _TIMES for z in points]
    return tuple((z.real, z.imag) for z in places)


def _inked(portrait: Image.Image, ink: str) -> Image.Image:
    grey = portrait.convert("L")
    if ink == "grey":
        return grey.convert("RGB")
    if ink == "sepia":
        return ImageOps.colorize(grey, (35, 22, 14), (250, 236, 205))
    if ink == "cool":
        return Image.blend(portrait, ImageOps.colorize(grey, (10, 24, 48), (228, 240, 255)), 0.6)
    return portrait


def _turned(
    image: Image.Image,
    turn: complex,
    origin: complex,
    size: tuple[int, int],
    around: int | tuple[int, int, int] = 0,
) -> Image.Image:
    """The picture in a window of `size`, a colour around it; drawn at twice that size and shrunk: smooth edges."""
    step, start = 0.5 / turn, -origin / turn
    data = (step.real, -step.imag, start.real, step.imag, step.real, start.imag)
    drawn = image.transform(
        (2 * size[0], 2 * size[1]), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC, fillcolor=around
    )
    return drawn.resize(size, Image.Resampling.BOX)
