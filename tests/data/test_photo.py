"""The sample scene: its faces are where it says, and its photograph is its original shrunk."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from aminet_fast.data.photo import _PRINTS, FACE_POINTS, Scene, sample_photograph, sample_scene
from aminet_fast.data.warp import warp
from aminet_fast.restoration.faces import fit, roll_of

SIDE = 64


@pytest.fixture(scope="module")
def scene() -> Scene:
    return sample_scene()


def face(image: Image.Image, points: list[complex]) -> np.ndarray:
    """float [64, 64, 3]: the face with these points, its eyes level and 30 pixels apart."""
    turn, origin = fit([17 + 22j, 47 + 22j], points[:2])
    return np.asarray(warp(image, turn, origin, (SIDE, SIDE)), float)


def test_the_photograph_is_the_original_shrunk(scene: Scene) -> None:
    assert (scene.photograph.size, scene.original.size) == ((200, 150), (800, 600))
    assert scene.photograph == scene.original.resize((200, 150), Image.Resampling.BICUBIC)


def test_faces_are_small_and_turned_both_ways(scene: Scene) -> None:
    places = [[complex(*point) for point in points] for points in scene.points]
    eyes = [abs(points[1] - points[0]) for points in places]
    rolls = [roll_of(points) for points in places]
    assert (min(eyes), max(eyes)) == pytest.approx((3.5, 8))
    assert min(rolls) < -20
    assert max(rolls) > 20


def test_faces_are_where_the_points_say(scene: Scene) -> None:
    upright = face(sample_photograph(), list(FACE_POINTS))
    mirrored = upright[:, ::-1]
    for points, one in zip(scene.points, _PRINTS, strict=True):
        found = face(scene.original, [4 * complex(*point) for point in points])
        wanted, other = (mirrored, upright) if one.mirrored else (upright, mirrored)
        if one.ink == "colour":
            error = np.abs(found - wanted).mean()
            assert error < 8
            assert error < 0.7 * np.abs(found - other).mean()
