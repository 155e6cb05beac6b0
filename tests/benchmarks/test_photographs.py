"""The measurements of photographs on drawn faces: they see what is there, and what would be wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast.data import draw_face
from aminet_fast.network.expects import Expects, Template
from aminet_fast.restoration import Face, FaceNetwork, restore_photograph
from aminet_fast.restoration.align import DEFAULT
from aminet_fast.restoration.detectors.points import PointsFile
from benchmarks.photographs import __main__ as program
from benchmarks.photographs import pasted, pictures, planted, recall
from benchmarks.photographs.planted import Measured, Original, Planted

# Where drawn faces have their eyes, nose and mouth corners, about.
POINTS = (44 + 62j, 84 + 62j, 64 + 84j, 50 + 100j, 78 + 100j)


class Sharpened(nn.Module):
    """Adds half of what is finer than 4 pixels, and so what `match_averages` leaves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coarse = nn.functional.interpolate(nn.functional.avg_pool2d(x, 4), scale_factor=4, mode="bilinear")
        return x + 0.5 * (x - coarse)


class Known(PointsFile):
    """Knows the faces of a photograph, and that of a portrait of 128x128; as a file of points, it is asked once."""

    def __init__(self, faces: list[Face]) -> None:
        self.faces = faces

    def __call__(self, image: Image.Image) -> list[Face]:
        return [planted._true_face(np.array(POINTS))] if image.size == (128, 128) else self.faces


@pytest.fixture(scope="module")
def originals() -> list[Original]:
    return [Original(draw_face(seed), POINTS) for seed in (1, 2)]


@pytest.fixture(scope="module")
def planted_faces(originals: list[Original]) -> Planted:
    return planted.plant(originals, 5.0, 20)


def measured(originals: list[Original], faces: list[Face]) -> Measured:
    network = FaceNetwork(Sharpened())
    return planted.measure(originals, network, network, Known(faces), 5.0, 20)


def test_planted_faces_are_where_they_are_said_to_be(originals: list[Original], planted_faces: Planted) -> None:
    assert planted_faces.original.size == (planted_faces.photograph.width * 8, planted_faces.photograph.height * 8)
    for face, one in zip(planted_faces.faces, originals, strict=True):
        assert abs(face.places[1] - face.places[0]) == pytest.approx(5)
        assert face.roll == pytest.approx(20)
        upright = planted.upright(planted_faces.original, planted.pose_of(face, DEFAULT))
        frame = planted.upright(one.image, planted.pose_of(_face(one.points), DEFAULT))
        centre = (..., slice(40, 100), slice(40, 90))
        assert (upright[centre] - frame[centre]).abs().mean() < 0.06


def _face(points: tuple[complex, ...]) -> Face:
    """In a picture that is taken as enlarged 8 times."""
    return planted._true_face(np.array(points) / planted.TIMES)


def test_the_pipeline_is_counted_and_scored(originals: list[Original], planted_faces: Planted) -> None:
    true = planted_faces.faces
    one = true[0]
    false = dataclasses.replace(one, points=tuple((x + 30, y) for x, y in one.points))
    right = measured(originals, true)
    assert (right.planted, right.found, right.false, right.roll_errors) == (2, 2, 0, [0, 0])
    assert right.gain() == right.gain("flip")
    assert right.gain() > right.gain("unaligned")  # the upright frame cuts a face turned by 20 degrees askew
    wrong = measured(originals, [dataclasses.replace(one, roll=5.0), false])
    assert (wrong.planted, wrong.found, wrong.false) == (2, 1, 1)
    assert wrong.roll_errors == pytest.approx([15])
    lines = list(planted.table([right, wrong]))
    assert len({line.count("|") for line in lines}) == 1
    assert lines[3].startswith("| 5 | 20 | 1/2 | 1 | 15.0 | ")


class Halves(nn.Module):
    """White above, black below, whatever it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.ones_like(x)
        y[..., x.shape[-2] // 2 :, :] = -1
        return y


def test_unaligned_faces_are_put_back_upright(planted_faces: Planted) -> None:
    face = planted_faces.faces[0]
    assert face.roll == pytest.approx(20)
    result = planted.unaligned(FaceNetwork(Halves()), planted_faces.photograph, [face])
    pose = planted.pose_of(dataclasses.replace(face, roll=0.0), DEFAULT)
    for x in (0.3, 0.5, 0.7):
        for y, level in ((0.45, 255), (0.55, 0)):
            place = planted.TIMES * (pose.turn * complex(x, y) + pose.origin)
            assert result.getpixel((int(place.real), int(place.imag))) == pytest.approx([level] * 3, abs=20)


def test_scores_are_of_the_ellipse_alone() -> None:
    truth = torch.zeros(1, 3, 128, 128)
    corner, middle = truth.clone(), truth.clone()
    corner[..., :12, :12] = 1
    middle[..., 60:68, 60:68] = 1
    assert planted.score(corner, truth)[0] == float("inf")
    assert planted.score(middle, truth)[0] < 30
    everywhere = planted.score(truth + 20 / 127.5, truth)[0]
    luma_step = 20 * (65.481 + 128.553 + 24.966) / 255
    assert everywhere == pytest.approx(20 * np.log10(255 / luma_step), abs=0.05)


def test_the_gain_of_turned_faces_is_compared_with_that_of_upright_ones() -> None:
    rows = []
    for angle, gain in ((0, 2.0), (10, 9.0), (20, 1.5)):
        row = Measured(5.0, angle)
        row.scores["bicubic"], row.scores["restored"] = [(20, 0.5)], [(20 + gain, 0.6)]
        rows.append(row)
    assert planted.ratios(rows) == {5.0: 0.75}


def test_recall_counts_each_face_once() -> None:
    def face(left: float, score: float) -> Face:
        return Face((left, 0, left + 10, 10), score, tuple((left, float(y)) for y in range(5)))

    there = [(0.0, 0.0, 10.0, 10.0), (40.0, 0.0, 50.0, 10.0)]
    faces = [face(1, 0.9), face(4, 0.9), face(45.5, 0.9), face(42, 0.55)]
    assert recall.count(there, faces, 0.5) == (2, 2, 2)
    assert recall.count(there, faces, 0.6) == (2, 1, 2)  # 4.5 of 15.5 is below 0.3
    assert recall.count(there, [], 0.5).recall == 0
    twins = [(0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 11.0, 10.0)]
    assert recall.count(twins, [face(1, 0.9)], 0.5) == (2, 1, 0)


@pytest.fixture(scope="module")
def pasted_face(planted_faces: Planted) -> tuple[np.ndarray, np.ndarray, np.ndarray, pasted.Window]:
    """Photograph, result, before and the first face's window."""
    done = restore_photograph(Sharpened(), planted_faces.photograph, detector=planted_faces.faces[:1])
    (window,) = pasted.windows(pasted.restored_faces(done), DEFAULT, planted_faces.photograph.size, 4)
    return np.asarray(planted_faces.photograph), np.asarray(done.image), np.asarray(done.before), window


def test_averages_are_compared_with_the_photograph(
    pasted_face: tuple[np.ndarray, np.ndarray, np.ndarray, pasted.Window],
) -> None:
    photograph, result, _, window = pasted_face
    difference, count = pasted.inconsistency(result, photograph, window)
    assert difference <= pasted.CONSISTENT
    assert count > 100
    darker = (result * 0.9).astype(np.uint8)
    assert pasted.inconsistency(darker, photograph, window)[0] > 5 * pasted.CONSISTENT
    for clipped in (np.zeros_like(result), np.full_like(result, 255)):
        assert pasted.inconsistency(clipped, photograph, window) == (0, 0)
    covered = window._replace(others=np.ones_like(window.others))
    assert pasted.inconsistency(darker, photograph, covered) == (0, 0)


def test_seams_are_seen_where_a_mask_ends(
    pasted_face: tuple[np.ndarray, np.ndarray, np.ndarray, pasted.Window],
) -> None:
    _, result, before, window = pasted_face
    usual = pasted.usual_step(before)
    assert usual > 1
    assert pasted.seam(result, before, window, 4) <= pasted.SEAM * usual
    hard = before.copy()
    height, width = window.share.shape
    box = hard[window.top * 4 : window.top * 4 + height, window.left * 4 : window.left * 4 + width]
    box[window.share > 0] = np.where(box[window.share > 0] > 127, 40, 215)
    assert pasted.seam(hard, before, window, 4) > pasted.SEAM * usual
    assert pasted.seam(hard, before, window._replace(others=np.ones_like(window.others)), 4) == 0


def test_larger_faces_are_told_from_those_that_keep_their_pixels(planted_faces: Planted) -> None:
    small = planted_faces.faces[0]
    large = dataclasses.replace(small, points=tuple((3 * x, 3 * y) for x, y in small.points))
    assert [pasted.keeps_pixels(face, Expects()) for face in (small, large)] == [True, False]


def test_a_window_knows_the_other_faces(planted_faces: Planted) -> None:
    one = planted_faces.faces[0]
    beside = dataclasses.replace(one, points=tuple((x + 12, y) for x, y in one.points))
    windows = list(pasted.windows([one, beside], Template(0.33, 0.42), planted_faces.photograph.size, 2))
    assert [window.others.max() > 0.5 for window in windows] == [True, True]
    (alone,) = pasted.windows([one], Template(0.33, 0.42), planted_faces.photograph.size, 2)
    assert alone.others.max() == 0
    assert alone.share.max() == 1
    assert max(alone.share[0].max(), alone.share[:, 0].max()) == 0  # the mask ends inside of its window


def test_the_usual_step_is_the_99th_percentile() -> None:
    picture = np.zeros((300, 400, 3), np.uint8)
    picture[:, 200:] = 90  # one step in 399 of a row, none in a column
    assert pasted.usual_step(picture) == 1
    picture[:, ::8] = 50  # one in four of a row, one in eight of all
    assert pasted.usual_step(picture) in (40, 50)


def test_every_action_prints_its_table_and_what_was_wanted(
    planted_faces: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wild").mkdir()
    planted_faces.photograph.save(tmp_path / "wild" / "group.png")
    rows = [
        (left, top, right - left, bottom - top) for left, top, right, bottom in (f.box for f in planted_faces.faces)
    ]
    lines = [f"group.png,{x},{y},{w},{h},0.9" for x, y, w, h in rows]
    (tmp_path / "wild" / "faces.csv").write_text("\n".join(["file,x,y,w,h,score", *lines]))
    for folder, seed in (("test_a", 1), ("test_b", 2)):
        (tmp_path / folder).mkdir()
        draw_face(seed).save(tmp_path / folder / "face.jpg")
    monkeypatch.setenv("AMINET_FACES", str(tmp_path))
    monkeypatch.setattr(program, "load_model", lambda name: Sharpened())
    monkeypatch.setattr(program, "open_detector", lambda name: Known(planted_faces.faces))

    printed = {}
    for action in ("planted", "recall", "seam", "consistency"):
        status = program.main([action, "--quick"])
        printed[action] = capsys.readouterr().out
        assert status == (1 if "SHORT" in printed[action] else 0)
    for eyes, angle in ((3.4, 0), (3.4, 20), (5, 0), (5, 20)):
        assert f"\n| {eyes} | {angle} | 2/2 | 0 | " in printed["planted"]
    assert "| group.png | 2 | 2, 0 | 2, 0 | 2, 0 | " in printed["recall"]
    assert "1.0000 at 0.6" in printed["recall"]
    assert "\n| group.png | 2 | " in printed["seam"]
    assert "\n| group.png | " in printed["consistency"]
    assert [action for action in printed if "as wanted" not in printed[action]] in ([], ["planted"])


@pytest.mark.parametrize("action", ["planted", "recall", "seam", "consistency"])
def test_without_pictures_one_line_says_what_is_missing(
    action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AMINET_FACES", raising=False)
    assert program.main([action]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(pictures.NoPicturesError, match="is not set"):
        pictures.root()
    monkeypatch.setenv("AMINET_FACES", str(tmp_path))
    with pytest.raises(pictures.NoPicturesError, match=r"faces\.csv is not there"):
        pictures.wild(quick=True)
