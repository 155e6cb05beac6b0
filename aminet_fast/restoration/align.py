"""Where a face's pixels are in the network's frame: upright, and framed as its weights expect."""

from __future__ import annotations

import cmath
import math
from typing import NamedTuple

from ..network.expects import Expects, Template
from .faces import SHAPE, Face

FRAME = 128  # pixels of the network's output for one face
DEFAULT = Template(eye_distance=0.33, eye_height=0.42)  # for weights that do not say


class Pose(NamedTuple):
    """A square frame over the photograph: its point z, from 0 to 1 + 1j, is the photograph's `turn` z + `origin`."""

    turn: complex
    origin: complex

    @property
    def side(self) -> float:
        """Pixels of the photograph along the frame's side."""
        return abs(self.turn)


def template_of(expects: Expects) -> Template:
    """Where the weights expect the eyes; CelebA's framing, slightly closer, where they do not say."""
    return expects.template or DEFAULT


def five_points(template: Template) -> list[complex]:
    """The five points of an upright face in the frame, as shares of its side."""
    return [template.eye_distance * z + complex(0.5, template.eye_height) for z in SHAPE]


def pose_of(face: Face, template: Template) -> Pose:
    """The frame in which the face is upright and lies as `template` says.

    Its size comes from the distance and its place from the middle of all five points, its turn from the face's roll.
    """
    side = face.eye_distance / template.eye_distance
    turn = cmath.rect(side, math.radians(face.roll))
    middle = sum(five_points(template)) / 5
    return Pose(turn, face.centre - turn * middle)
