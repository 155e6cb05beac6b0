"""Both passes over a face, with networks that do little: where the grid lies, what comes out, and in which batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast.network.expects import Expects
from aminet_fast.restoration import FaceNetwork
from aminet_fast.restoration.align import DEFAULT, Pose, pose_of
from aminet_fast.restoration.two_passes import cut, frame_of, grid_of, restore_faces
from tests.restoration.charts import planted
from tests.restoration.inputs import Lopsided, noise

SMOOTH = noise(24, 20).resize((96, 80), Image.Resampling.BICUBIC)


class Broken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * float("nan")


class Counted(nn.Module):
    """Gives back what it is given, and keeps the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return x


def posed(eyes: float, roll: float = 0.0, x: float = 48, y: float = 36) -> Pose:
    return pose_of(planted(x, y, eyes, roll), DEFAULT)


@pytest.mark.parametrize("eyes", [2.5, 5.28, 7, 15, 21, 60])
@pytest.mark.parametrize("roll", [0, 13, -38])
def test_the_turned_frame_lies_in_the_grid(eyes: float, roll: float) -> None:
    pose = posed(eyes, roll, 50.4, 33.7)
    grid = grid_of(pose, 16)
    for corner in (0, 1, 1j, 1 + 1j):
        place = (pose.turn * corner + pose.origin - grid.origin) / grid.pitch
        assert 0 <= place.real <= grid.side
        assert 0 <= place.imag <= grid.side
    assert grid.side >= 16
    assert grid.side % 2 == 0


def test_faces_keep_their_pixels_up_to_somewhat_more_than_the_networks() -> None:
    assert frame_of(posed(2.64), 16) == (16, pytest.approx(0.5))
    assert frame_of(posed(5.28), 16) == (16, pytest.approx(1))
    assert frame_of(posed(6.6), 16) == (20, 1.0)
    assert frame_of(posed(1.3 * 10.56), 16) == (22, pytest.approx(2))  # 1.3 times 16, and even
    assert frame_of(posed(1.3 * 10.56), 32) == (42, pytest.approx(1))


@pytest.mark.parametrize("eyes", [3, 5.28, 6.8])
def test_a_grid_of_pitch_one_is_the_photographs_own_pixels(eyes: float) -> None:
    grid = grid_of(posed(eyes, 25, 40.3, 30.6), 16)
    left, top = int(grid.origin.real), int(grid.origin.imag)
    assert (grid.pitch, grid.origin) == (1.0, complex(left, top))
    rows = np.arange(top, top + grid.side).clip(0, 79)
    columns = np.arange(left, left + grid.side).clip(0, 95)
    assert np.array_equal(cut(SMOOTH, grid), np.asarray(SMOOTH)[rows][:, columns])


def test_a_coarser_grid_is_shrunk_at_its_place() -> None:
    y, x = np.mgrid[:200, :240]
    picture = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
    grid = grid_of(posed(40, 10, 120, 90), 16)
    pixels = cut(picture, grid)
    assert grid.pitch == pytest.approx(40 / 0.33 / 16 / 1.3)
    centres = grid.origin.real + (np.arange(grid.side) + 0.5) * grid.pitch
    inside = (centres > 4) & (centres < 236)
    assert np.abs(pixels[grid.side // 2, inside, 0] - (centres[inside] - 0.5)).max() <= 0.75  # 8-bit


@pytest.mark.parametrize("eyes", [4, 5.28, 12])
@pytest.mark.parametrize("roll", [0, -30])
def test_a_network_that_adds_nothing_gives_back_the_photograph(eyes: float, roll: float) -> None:
    pose = posed(eyes, roll)
    (passed,) = restore_faces([SMOOTH], [pose], FaceNetwork(nn.Identity()))
    given = cut(SMOOTH, passed.grid)
    side = passed.grid.side
    assert passed.levels.shape == (side * 8, side * 8, 3)
    assert passed.levels.dtype == np.float32
    assert np.abs(passed.levels.reshape(side, 8, side, 8, 3).mean((1, 3)) - given).max() < 1e-3
    enlarged = Image.fromarray(given.astype(np.uint8)).resize((side * 8, side * 8), Image.Resampling.BICUBIC)
    assert np.abs(passed.levels - np.asarray(enlarged)).mean() < 4
    assert passed.frame.shape == (8 * len(passed.lr), 8 * len(passed.lr), 3)


@pytest.mark.parametrize("roll", [0, 20, -30])
def test_the_frame_is_upright(roll: float) -> None:
    """A light mark between the eyes and a dark one at the mouth, of a turned face, lie where the template says."""
    face = planted(60.2, 55.6, 10, roll)
    y, x = np.mgrid[:120, :120] + 0.5
    levels = np.full((120, 120), 128.0)
    for place, sign in ((face.places[0], 90), (face.places[4], -90)):
        levels += sign * np.exp(-((x - place.real) ** 2 + (y - place.imag) ** 2) / 4)
    picture = Image.fromarray(np.rint(levels).astype(np.uint8)).convert("RGB")
    (passed,) = restore_faces([picture], [pose_of(face, DEFAULT)], FaceNetwork(nn.Identity()))
    frame = passed.frame[..., 0]
    for extreme, (u, v) in (
        (frame.argmax(), (0.335, 0.42)),
        (frame.argmin(), (0.5 + 0.33 * 0.438, 0.42 + 0.33 * 0.991)),
    ):
        row, column = divmod(int(extreme), len(frame))
        assert math.hypot((column + 0.5) / len(frame) - u, (row + 0.5) / len(frame) - v) < 0.02


def test_faces_share_batches_and_do_not_disturb_each_other() -> None:
    poses = [posed(4), posed(5, 20, 40), posed(14), posed(4.5, -10, 30, 50)]
    network = Counted()
    together = restore_faces([SMOOTH] * 4, poses, FaceNetwork(network, batch_size=3))
    assert [shape[0] for shape in network.shapes if shape[2] == 128] == [3]  # the second pass of the small ones
    for pose, one in zip(poses, together, strict=True):
        (alone,) = restore_faces([SMOOTH], [pose], FaceNetwork(Counted()))
        for a, b in zip(one, alone, strict=True):
            assert np.array_equal(a, b)
    assert restore_faces([], [], FaceNetwork(network)) == []


def test_batches_of_larger_faces_are_smaller() -> None:
    network = Counted()
    pictures = [np.zeros((32, 32, 3), np.float32)] * 5
    results = FaceNetwork(network, batch_size=8)(pictures)
    assert [shape[0] for shape in network.shapes] == [2, 2, 1]
    assert {result.shape for result in results} == {(256, 256, 3)}
    assert FaceNetwork(network)([]) == []


def test_a_network_of_another_scale() -> None:
    network = Counted()
    network.expects = Expects(scale=4)  # type: ignore[assignment]
    (passed,) = restore_faces([SMOOTH], [posed(5.28)], FaceNetwork(network), scale=4)
    assert passed.lr.shape == (32, 32, 3)
    assert passed.frame.shape == (128, 128, 3)


def test_an_ensemble_is_the_mean_of_both_sides() -> None:
    grey = [np.full((16, 16, 3), 100, np.float32)]
    assert FaceNetwork(Lopsided())(grey)[0][0, [0, -1], 0] == pytest.approx([140, 100])
    assert FaceNetwork(Lopsided(), ensemble="flip")(grey)[0][0, [0, -1], 0] == pytest.approx([120, 120])


def test_networks_that_do_not_serve() -> None:
    with pytest.raises(ValueError, match="returned NaN or infinite values"):
        FaceNetwork(Broken())([np.zeros((16, 16, 3), np.float32)])
    with pytest.raises(ValueError, match="batch_size is 0, wanted at least 1"):
        FaceNetwork(nn.Identity(), batch_size=0)
    for expects, message in ((Expects(scale=3), "enlarge 3 times"), (Expects(colours="bgr"), "expect colours 'bgr'")):
        network = nn.Identity()
        network.expects = expects  # type: ignore[assignment]
        with pytest.raises(ValueError, match=message):
            FaceNetwork(network)
