"""A second look at each face found, from several sides: how it is turned, and where its points really are.

Detectors put the points of a small, blurred face where those of an upright one would be, however it is turned: at an
eye distance of 5 pixels and a roll of 20 degrees they say about 2. But they tell an upright face from a turned one by
their score, and the little turn that they see is nought when the face stands upright. So the face is cut out at several
angles, the pieces are laid side by side into one picture, and the detector is run on that.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.warp import warp
from .faces import SHAPE, Face, box_around, roll_of

_CELL, _FACE = 128, 64  # pixels of a piece's side, and of a face's in it
_WIDE = tuple(range(-60, 61, 15))  # degrees of the first look
_NEAR = (-24, -12, 0, 12, 24)  # of the second, from the roll that the first one found; also mirrored
_SHEET = 1920  # largest side of a picture of pieces
_AGREE = 3  # pieces in which a face must be seen
_SLOPE = 0.05  # by how much less of a turn is seen for each degree that a piece is turned: less says nothing
_MIRRORED = (1, 0, 2, 4, 3)  # points of a mirrored face in the order of an upright one
# Pixels of the photograph by which the eyes of a face are seen too close together, for blur draws points to the middle:
# measured 0.46 to 0.58 at eye distances of 3.4 to 6 pixels.
_DRAWN = 0.5

_UNSEEN = 0.1  # what a face's score loses that only one look has seen

FindFaces = Callable[[Image.Image], list[Face]]


class _Piece(NamedTuple):
    """Where a piece was cut out: its pixel z is the photograph's `turn` z + `origin`, mirrored first or not."""

    angle: float
    turn: complex
    origin: complex
    mirrored: bool


class _Seen(NamedTuple):
    """A face in a piece: the piece's angle, the face's roll in it, points in the photograph, score."""

    angle: float
    roll: float
    points: np.ndarray  # complex [5]
    score: float


def look_again(image: Image.Image, faces: Sequence[Face], find: FindFaces) -> list[Face]:
    """Each face with the roll, points, box and score of a closer look.

    The score is the better one of both looks; a face that the closer look does not see loses a tenth, and keeps its
    points.

    Args:
        image: RGB.
        faces: what the detector found in it.
        find: the detector.
    """
    first = [_Start(complex(*_middle(face)), max(_size(face)), 0.0) for face in faces]
    wide = _see(image, first, _WIDE, find, mirror=False)
    second, kept = [], []
    for number, seen in enumerate(wide):
        if len(seen) >= _AGREE:
            roll = _roll(seen)
            points = _mean(seen, roll)
            second.append(_Start(points.mean(), 2.0 * _spread(points), roll))
            kept.append(number)
    near = _see(image, second, _NEAR, find, mirror=True)
    found = [_unseen(face) for face in faces]
    for number, start, seen in zip(kept, second, near, strict=True):
        if len(seen) >= _AGREE:
            found[number] = _face(faces[number], seen, start.roll)
    return found


class _Start(NamedTuple):
    centre: complex
    size: float  # pixels of the photograph that become _FACE
    roll: float


def _see(
    image: Image.Image, starts: Sequence[_Start], angles: Sequence[int], find: FindFaces, *, mirror: bool
) -> list[list[_Seen]]:
    """What the detector sees of each face in its pieces."""
    columns = len(angles) * (2 if mirror else 1)
    rows = max(1, _SHEET // _CELL)
    seen: list[list[_Seen]] = []
    for top in range(0, len(starts), rows):
        part = starts[top : top + rows]
        pieces = [
            [_piece(start, angle, m) for m in ([False, True] if mirror else [False]) for angle in angles]
            for start in part
        ]
        sheet = Image.new("RGB", (columns * _CELL, len(part) * _CELL))
        for row, line in enumerate(pieces):
            for column, piece in enumerate(line):
                cut = warp(image, piece.turn, piece.origin, (_CELL, _CELL))
                if piece.mirrored:
                    cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                sheet.paste(cut, (column * _CELL, row * _CELL))
        seen += _in_pieces(find(sheet), pieces)
    return seen


def _piece(start: _Start, offset: float, mirrored: bool) -> _Piece:
    angle = start.roll + offset
    turn = cmath.rect(start.size / _FACE, math.radians(angle))
    return _Piece(angle, turn, start.centre - turn * complex(_CELL / 2, _CELL / 2), mirrored)


def _in_pieces(faces: Sequence[Face], pieces: Sequence[Sequence[_Piece]]) -> list[list[_Seen]]:
    """Of the faces in a sheet the best in the middle of each piece, as seen in the photograph."""
    best: dict[tuple[int, int], Face] = {}
    for face in faces:
        row, column = int(face.centre.imag // _CELL), int(face.centre.real // _CELL)
        middle = complex(column + 0.5, row + 0.5) * _CELL
        if not (0 <= row < len(pieces) and 0 <= column < len(pieces[0])) or abs(face.centre - middle) > _FACE / 2:
            continue
        if (row, column) not in best or face.score > best[row, column].score:
            best[row, column] = face
    seen: list[list[_Seen]] = [[] for _ in pieces]
    for (row, column), face in sorted(best.items()):
        piece = pieces[row][column]
        places = np.array(face.places) - complex(column, row) * _CELL
        if piece.mirrored:
            places = (_CELL - places.conj())[list(_MIRRORED)]
        seen[row].append(_Seen(piece.angle, roll_of(list(places)), places * piece.turn + piece.origin, face.score))
    return seen


def _roll(seen: Sequence[_Seen], about: float | None = None) -> float:
    """Where the face stands upright: the middle of the angles weighed by score, and where the roll that is seen crosses
    nought.

    Args:
        seen: the face in its pieces.
        about: the roll as far as it is known, from which the crossing is within 12 degrees.
    """
    angles = np.array([one.angle for one in seen])
    scores = np.array([one.score for one in seen])
    rolls = np.array([one.roll for one in seen])
    weights = np.clip(scores - 0.5, 1e-6, None) ** 2
    middle = float(np.average(angles, weights=weights))
    roll = middle if about is None else about
    for _ in range(2 if about is None else 1):
        near = np.abs(angles - roll) <= 25.0
        if near.sum() < _AGREE:
            break
        slope, offset = np.polyfit(angles[near], rolls[near], 1, w=scores[near])
        if slope > -_SLOPE:
            break
        reach = 10.0 if about is None else 12.0
        crossing = float(np.clip(-offset / slope, roll - reach, roll + reach))
        share = 0.5 if about is None else 0.2
        roll = (1 - share) * crossing + share * middle
    return roll


def _mean(seen: Sequence[_Seen], roll: float) -> np.ndarray:
    """The points' mean over the pieces in which the face stands nearly upright, complex [5]."""
    near = [one for one in seen if abs(one.angle - roll) <= 15.0] or [min(seen, key=lambda one: abs(one.angle - roll))]
    return np.average([one.points for one in near], axis=0, weights=[one.score for one in near])


def _spread(points: np.ndarray) -> float:
    """The eye distance of the shape that fits the points best."""
    shape, places = np.array(SHAPE), points - points.mean()
    shape = shape - shape.mean()
    return float(abs((places * shape.conj()).sum()) / (abs(shape) ** 2).sum())


def _face(face: Face, seen: Sequence[_Seen], roll: float) -> Face:
    roll = _roll(seen, roll)
    points = _mean(seen, roll)
    distance = _spread(points)
    points = points.mean() + (points - points.mean()) * ((distance + _DRAWN) / distance)
    # Turned so that they say what the pieces said together.
    points = points.mean() + (points - points.mean()) * cmath.rect(1, math.radians(roll - roll_of(list(points))))
    near = [one.score for one in seen if abs(one.angle - roll) <= 15.0]
    places = [complex(z) for z in points]
    score = max(face.score, float(np.mean(near)) if near else 0.0)
    return Face(box_around(places), score, tuple((z.real, z.imag) for z in places), (roll + 180) % 360 - 180)


def _unseen(face: Face) -> Face:
    return replace(face, score=max(face.score - _UNSEEN, 0.0), roll=roll_of(face.places))


def _middle(face: Face) -> tuple[float, float]:
    left, top, right, bottom = face.box
    return (left + right) / 2, (top + bottom) / 2


def _size(face: Face) -> tuple[float, float]:
    left, top, right, bottom = face.box
    return right - left, bottom - top
