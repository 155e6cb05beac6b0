"""One photograph's files: how it is read, what its PNG and its JSON hold, and what is not written over."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from aminet_fast import __version__
from aminet_fast.commands.cli import main
from aminet_fast.restoration import RestoreConfig, photograph_files, restore_files
from aminet_fast.restoration.photograph_files import Photograph
from aminet_fast.restoration.plan import Job
from tests.harness.bad_files import make_zoo, ramp
from tests.restoration.core import FACE, Core, album, left_out, names_in, restored, run, stand_in
from tests.restoration.inputs import noise


@pytest.fixture(autouse=True)
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    return stand_in(monkeypatch)


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

    text = (out / "a.json").read_text()
    assert [line[:15] for line in text.splitlines()].count('    {"number": ') == 4  # a face on each line
    written = json.loads(text)
    face = {
        "number": 1,
        "box": [2.12, 3.0, 18.0, 21.0],
        "points": [[6.0, 8.0], [14.0, 8.0], [10.0, 12.0], [7.0, 16.0], [13.0, 16.0]],
        "score": 0.9123,
        "eye_distance": round(FACE.eye_distance, 2),
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
    assert run(tmp_path, root, scale=2) == 0
    modes = {"16": "L", "1": "L", "L": "L", "LA": "LA", "P": "RGB", "CMYK": "RGB", "RGBA": "RGBA", "turned": "RGB"}
    for name, mode in modes.items():
        with Image.open(out / f"{name}.png") as result:
            assert (result.mode, result.size) == (mode, (48, 40)), name
            small = result.resize((24, 20), Image.Resampling.NEAREST)  # as the stand-in enlarged it
            assert result.info.get("icc_profile") == (icc if name == "turned" else None), name
            assert not result.getexif(), name
            assert np.asarray(result).std() > 20, name
            if mode.endswith("A"):
                assert small.getchannel("A").tobytes() == clear.tobytes(), name
            if name == "turned":
                assert small.tobytes() == image.tobytes()
            if name in ("L", "LA"):
                assert small.getchannel("L").tobytes() == image.convert("L").tobytes()
            if name == "16":
                assert np.asarray(small)[0].tolist() == np.rint(wide[0] / 257).tolist()
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


def test_a_result_that_the_memory_cannot_hold_is_told_from_the_header(
    tmp_path: Path, core: Core, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = album(tmp_path / "in", "a.png")
    noise(400, 300).save(root / "large.png")
    noise(400, 300, "RGBA").save(root / "large_too.png")
    needed = 1_200_000_000 + 400 * 300 * (12 + 5 * 16)
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: needed)
    assert run(tmp_path, root) == 1
    captured = capsys.readouterr()
    assert "large_too.png: its result of 1600x1200 pixels takes 1.1 GiB of memory" in captured.err
    assert "; --scale 3 fits\n" in captured.err
    assert "1 of 3 pictures failed" in captured.err
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: needed - 1)
    assert run(tmp_path, root, force=True) == 1
    assert "2 of 3 pictures failed" in capsys.readouterr().err
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: 1_200_000_000)
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
    assert run(tmp_path, zoo, zoo / "film.mp4", scale=2) == 1
    captured = capsys.readouterr()
    good = [name for name, e in expected.items() if e.reads]
    assert f"{len(good)} of {len(expected) + 1} pictures restored" in captured.out
    assert f"{len(expected) + 1 - len(good)} of {len(expected) + 1} pictures failed" in captured.err
    assert len(names_in(out)) == 2 * len(good)
    assert not [name for name in names_in(out) if ".tmp-" in name]
    for name in ("one_pixel", "sliver"):
        with Image.open(out / f"{name}.png") as result:
            assert result.size == tuple(2 * side for side in expected[f"{name}.png"].size)
    assert run(tmp_path, zoo / "film.mp4", force=True) == 1
    assert (
        "film.mp4: is no picture that Pillow knows; .mp4 is a film: save frames of it as PNG" in capsys.readouterr().err
    )


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


@pytest.fixture
def small_files() -> Iterator[int]:
    """No file grows beyond so many bytes: writing fails in the middle, as on a full disk."""
    resource = pytest.importorskip("resource")
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


def test_reasons_are_counted_without_their_figures() -> None:
    faces = [
        left_out(n, reason) for n, reason in enumerate(("too small: eyes 1.3 apart", "too small (4 px)", "not chosen"))
    ]
    line = photograph_files.in_a_line(Path("a.jpg"), Path("b.png"), faces)
    assert line == "a.jpg: 3 faces, 0 restored, 3 left out (2 too small, 1 not chosen) -> b.png"
    assert photograph_files.in_a_line(Path("a"), Path("b"), [restored(1)]) == "a: 1 face, 1 restored -> b"
