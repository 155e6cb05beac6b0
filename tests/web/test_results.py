from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aminet_fast.restoration.photograph import RestoredFace
from aminet_fast.web.results import (
    GALLERY,
    draw_numbers,
    report,
    restored_faces,
    save_png,
    save_preview,
    side_by_side,
    summary,
)
from tests.restoration.inputs import noise
from tests.web.inputs import face_at


def done(number: int) -> RestoredFace:
    lr = noise(16, 16, seed=number)
    return RestoredFace(
        number, face_at(20, 20), "restored", None, 1.5, lr, lr.resize((128, 128)), noise(128, 128, seed=number)
    )


def left_out(number: int, reason: str) -> RestoredFace:
    return RestoredFace(number, face_at(60, 20, 0.25), "left out", reason, None, None, None, None)


SIZES = ((80, 40), (160, 80))


def test_summary_counts_and_says_why() -> None:
    faces = (
        done(1),
        left_out(2, "not chosen"),
        done(3),
        left_out(4, "score below 0.5"),
        left_out(5, "not chosen"),
        left_out(6, "too large (3.1)"),
        left_out(7, "too large (4.2)"),
        left_out(8, "turned by 57 degrees"),
    )
    text = summary(faces, SIZES, 1.25, "on cpu, backend auto, fp32", ["rotated by EXIF"])
    assert text == (
        "**8 faces found: 2 restored, 6 left out.** Left out: number 2, 5 (not chosen); number 4 (score below 0.5);"
        " number 6, 7 (too large); number 8 (turned too far)."
        " 80x40 to 160x80 pixels in 1.2 s, on cpu, backend auto, fp32. Converted: rotated by EXIF."
    )


def test_summary_of_one_and_of_none() -> None:
    assert summary([done(1)], SIZES, 1, "on cpu", []).startswith("**1 face found: 1 restored, 0 left out.** 80x40")
    assert summary([], SIZES, 1, "on cpu", []).startswith("**No face was found.** The photograph is enlarged only")


def test_no_more_than_64_are_shown_one_by_one() -> None:
    many = [done(number) for number in range(1, GALLERY + 3)]
    shown = restored_faces([left_out(0, "too small"), *many])
    assert [caption for _, caption in shown] == [f"face {number}" for number in range(1, 65)]
    assert "The first 64 of them are shown" in summary(many, SIZES, 1, "on cpu", [])
    assert "The first 64 of them are shown" not in summary(many[:64], SIZES, 1, "on cpu", [])


def test_side_by_side() -> None:
    face = done(1)
    row = side_by_side(face)
    assert row is not None
    assert face.lr is not None
    assert face.bicubic is not None
    assert face.restored is not None
    assert row.size == (392, 128)
    assert row.crop((0, 0, 128, 128)).tobytes() == face.lr.resize((128, 128), Image.Resampling.NEAREST).tobytes()
    assert row.crop((132, 0, 260, 128)).tobytes() == face.bicubic.tobytes()
    assert row.crop((264, 0, 392, 128)).tobytes() == face.restored.tobytes()
    assert side_by_side(left_out(2, "too large")) is None


def test_report() -> None:
    text = report([done(1), left_out(2, "not chosen")], (80, 40), {"source": "a.jpg"})
    values = json.loads(text)
    assert (values["source"], values["width"], values["height"]) == ("a.jpg", 80, 40)
    first, second = values["faces"]
    assert (first["number"], first["status"], first["reason"], first["scale"]) == (1, "restored", None, 1.5)
    assert (first["score"], first["box"]) == (0.9, [9, 8, 31, 37])
    assert first["eye_distance"] == round(face_at(20, 20).eye_distance, 2)
    assert (second["status"], second["reason"], second["score"]) == ("left out", "not chosen", 0.25)


def test_png_says_how_many_faces_were_synthesised(tmp_path: Path) -> None:
    image = noise(8, 6)
    for faces, wanted in (
        ((), None),
        (
            (done(1), left_out(2, "too large")),
            "1 of the faces in this picture was synthesised by aminet_fast",
        ),
        ((done(1), done(2)), "2 of the faces in this picture were synthesised by aminet_fast from a few pixels each."),
    ):
        image.info = {"transparency": (0, 0, 0), "dpi": (300, 300)}  # of the source
        save_png(image, tmp_path / "a.png", b"profile", faces)
        with Image.open(tmp_path / "a.png") as saved:
            assert saved.tobytes() == image.tobytes()
            assert saved.info.pop("icc_profile") == b"profile"
            assert saved.info.pop("Software").startswith("aminet_fast ")
            assert ("Description" in saved.info) == (wanted is not None)
            assert saved.info.pop("Description", "").startswith(wanted or "")
            assert saved.info == {}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_preview(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (5000, 10), (0,) * len(Image.new(mode, (1, 1)).getbands()))
    save_preview(image, tmp_path / "a.jpg", b"profile")
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.size == (4096, 8)
        assert saved.info["icc_profile"] == b"profile"
        assert set(np.asarray(saved.convert("RGB")).ravel().tolist()) == {255 if mode.endswith("A") else 0}


def test_numbered_boxes() -> None:
    before = Image.new("RGB", (100, 50), "white")
    picture = draw_numbers(before, [done(1), left_out(2, "not chosen")])
    assert picture.size == (400, 200)
    pixels = np.asarray(picture)
    assert pixels[30:190, 36, :].tolist().count([38, 120, 255]) > 100  # left edge of (9, 8, 31, 37), four times
    assert pixels[30:190, 196, :].tolist().count([240, 130, 20]) > 100  # and of (49, 8, 71, 37)
    assert (pixels[195:, :, :] == 255).all()
    assert draw_numbers(Image.new("L", (4000, 30)), []).size == (2048, 15)


def test_boxes_outside_of_the_picture() -> None:
    face = RestoredFace(123456, face_at(-200, -200), "left out", "too small", None, None, None, None)
    assert draw_numbers(Image.new("RGB", (4, 3)), [face]).size == (16, 12)
