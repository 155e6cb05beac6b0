"""Faces: the similarity that fits five points, what a face refuses, and the order in which faces are counted."""

from __future__ import annotations

import cmath
import math
from typing import Any

import pytest

from aminet_fast.network.expects import Template
from aminet_fast.restoration.align import five_points, pose_of
from aminet_fast.restoration.faces import SHAPE, Face, box_around, by_position, fit, roll_of
from tests.restoration.charts import planted

POINTS = tuple((z.real, z.imag) for z in SHAPE)


@pytest.mark.parametrize("scale", [0.01, 1.0, 7.5, 3000.0])
@pytest.mark.parametrize("roll", [-179.0, -90.0, -20.0, 0.0, 33.0, 120.0])
def test_similarity_fits_exactly(scale: float, roll: float) -> None:
    a, b = cmath.rect(scale, math.radians(roll)), complex(-40, 900)
    targets = [a * z + b for z in SHAPE]
    found = fit(SHAPE, targets)
    assert found[0] == pytest.approx(a, rel=1e-9)
    assert found[1] == pytest.approx(b, rel=1e-9)
    assert roll_of(targets) == pytest.approx(roll, abs=1e-6)
    back = fit(targets, SHAPE)
    assert back[0] == pytest.approx(1 / a, rel=1e-9)


def test_similarity_is_the_least_squares_one() -> None:
    targets = [complex(*p) for p in [(1, 2), (9, 3), (5, 7), (2, 11), (8, 10)]]
    a, b = fit(SHAPE, targets)

    def misses(a: complex, b: complex) -> float:
        return sum(abs(a * z + b - q) ** 2 for z, q in zip(SHAPE, targets, strict=True))

    for step in (1e-3, -1e-3, 1e-3j, -1e-3j):
        assert misses(a, b) < min(misses(a + step, b), misses(a, b + step))
    with pytest.raises(ValueError, match="all the same"):
        fit([1 + 1j] * 5, SHAPE)


def test_face_says_what_it_is() -> None:
    face = planted(30, 20, 6, roll=-25, score=0.87654)
    assert face.eye_distance == pytest.approx(6)
    assert face.centre == pytest.approx(sum(face.places) / 5)
    left, top, right, bottom = box_around([10 * z + complex(50, 40) for z in SHAPE])
    assert (left, top, right, bottom) == pytest.approx((39.5, 29, 60.5, 57))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": (5.0, 0.0, 5.0, 9.0)}, "something between"),
        ({"box": (0.0, 9.0, 5.0, 2.0)}, "something between"),
        ({"box": (0.0, 0.0, 5.0)}, "box of 4 numbers"),
        ({"points": POINTS[:4]}, "5 points"),
        ({"points": (*POINTS[:4], (1.0,))}, "5 points"),
        ({"points": (*POINTS[:4], (1.0, math.nan))}, "finite"),
        ({"score": math.inf}, "finite"),
        ({"roll": math.nan}, "finite"),
    ],
)
def test_what_is_no_face(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"box": (0.0, 0.0, 5.0, 9.0), "score": 0.9, "points": POINTS}
    Face(**values)
    with pytest.raises(ValueError, match=message):
        Face(**(values | change))


def test_order_is_by_rows() -> None:
    places = [(10, 20), (50, 17), (90, 23), (30, 60), (70, 57), (20, 100)]  # three rows, not quite level
    faces = [planted(x, y, 8) for x, y in places]
    for mixed in (faces, faces[::-1], faces[3:] + faces[:3]):
        assert by_position(mixed) == faces
    tall, small = planted(10, 50, 40), planted(90, 70, 4)  # below the middle of the tall one, by more than its height
    assert by_position([small, tall]) == [tall, small]
    assert by_position([]) == []


@pytest.mark.parametrize("roll", [0.0, 33.0, -150.0])
def test_pose_lays_the_face_into_the_template(roll: float) -> None:
    template = Template(eye_distance=0.4, eye_height=0.35)
    pose = pose_of(planted(60, 40, 12, roll=roll), template)
    assert pose.side == pytest.approx(30)
    for z, place in zip(five_points(template), planted(60, 40, 12, roll=roll).places, strict=True):
        assert pose.turn * z + pose.origin == pytest.approx(place)
    assert five_points(template)[:2] == pytest.approx([0.3 + 0.35j, 0.7 + 0.35j])
