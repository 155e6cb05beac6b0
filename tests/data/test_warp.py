"""Turning, scaling and cutting out, in continuous coordinates."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
from PIL import Image

from aminet_fast.data.warp import crop, resize_levels, warp, warp_levels, warp_rounded
from tests.restoration.inputs import noise

PICTURE = noise(40, 30)
PIXELS = np.asarray(PICTURE)


def ramp(width: int, height: int) -> np.ndarray:
    """Every pixel's own centre (x, y): float32 [height, width, 2]."""
    return np.stack(np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5), -1).astype(np.float32)


@pytest.mark.parametrize("x", [0, 5, 25])
@pytest.mark.parametrize("y", [0, 7])
def test_a_shift_by_whole_pixels_is_exact(x: int, y: int) -> None:
    for function in (warp, warp_rounded):
        assert np.array_equal(np.asarray(function(PICTURE, 1, complex(x, y), (12, 9))), PIXELS[y : y + 9, x : x + 12])


def test_a_quarter_turn_is_exact() -> None:
    turned = np.asarray(warp_rounded(PICTURE, 1j, complex(40, 0), (30, 40)))  # its pixel (x, y) is (40 - y, x)
    assert np.array_equal(turned, np.rot90(PIXELS))


@pytest.mark.parametrize("scale", [0.25, 0.8, 1.0, 2.0, 3.3])
def test_pixels_are_where_their_centres_are(scale: float) -> None:
    turn, origin = cmath.rect(scale, math.radians(-20)), complex(40, 40)
    found = warp_levels(ramp(120, 120), turn, origin, (16, 12))
    places = turn * (ramp(16, 12) @ np.array([1, 1j])) + origin
    missed = found @ np.array([1, 1j]) - places
    assert np.abs(missed).max() < 0.14  # of a pixel: so much Pillow's cubic bends a straight line
    assert abs(missed.mean()) < 0.02


def test_a_half_pixel_is_the_mean_of_two() -> None:
    stripe = np.zeros((8, 8, 1), np.float32)
    stripe[:, 4:] = 160
    shifted = warp_levels(stripe, 1, 0.5, (8, 8))
    assert shifted[4, 3, 0] == pytest.approx(80)
    assert shifted[4, [1, 5], 0].tolist() == [0, 160]


@pytest.mark.parametrize("box", [(-3, -2, 6, 5), (35, 25, 60, 44), (-50, -9, -40, 3), (45, 2, 47, 99)])
def test_the_edge_goes_on(box: tuple[int, int, int, int]) -> None:
    rows, columns = np.arange(box[1], box[3]).clip(0, 29), np.arange(box[0], box[2]).clip(0, 39)
    wanted = PIXELS[rows][:, columns]
    assert np.array_equal(np.asarray(crop(PICTURE, *box)), wanted)
    size = (box[2] - box[0], box[3] - box[1])
    assert np.array_equal(np.asarray(warp_rounded(PICTURE, 1, complex(*box[:2]), size)), wanted)


@pytest.mark.parametrize("roll", [0, 30])
def test_shrinking_is_antialiased(roll: float) -> None:
    checks = np.indices((96, 96)).sum(0)[..., None] % 2 * 200.0
    shrunk = warp_levels(checks, cmath.rect(4, math.radians(roll)), complex(40, 20), (8, 8))
    assert np.abs(shrunk - 100).max() < 3
    whole = warp_levels(np.asarray(PICTURE, np.float32), 2, 0, (20, 15))
    assert np.abs(whole.mean(axis=(0, 1)) - PIXELS.mean(axis=(0, 1))).max() < 1


def test_levels_are_rounded_to_the_nearest() -> None:
    turn, origin = cmath.rect(0.7, 0.4), complex(18, 3)
    exact = warp_levels(PIXELS.astype(np.float32), turn, origin, (20, 20)).clip(0, 255)
    assert np.abs(np.asarray(warp_rounded(PICTURE, turn, origin, (20, 20))) - exact).max() <= 0.5 + 1e-3
    assert np.abs(np.asarray(warp(PICTURE, turn, origin, (20, 20))) - exact).max() <= 1 + 1e-3


def test_levels_are_resized_as_pictures() -> None:
    shrunk = resize_levels(PIXELS, (10, 6))
    assert np.abs(shrunk.clip(0, 255) - np.asarray(PICTURE.resize((10, 6), Image.Resampling.BICUBIC))).max() <= 1
