from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aminet_fast.data.images import Picture
from aminet_fast.web import limits
from aminet_fast.web.limits import Limits, parse_numbers, read_upload
from tests.restoration.inputs import noise


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("", None),
        ("  ", None),
        (None, None),
        ("3,7", (3, 7)),
        (" 7 3, 7;2-4,", (7, 3, 2, 4)),
        ("12", (12,)),
    ],
)
def test_numbers(text: str | None, numbers: tuple[int, ...] | None) -> None:
    assert parse_numbers(text) == numbers


@pytest.mark.parametrize("text", ["x", "0", "3,x", "-1", "5-3", "1.5", "0-2", "1-99999", "9" * 30, "٣"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match=r"^faces is .*; wanted numbers such as 3,7 or 2-5, or nothing for all$"):
        parse_numbers(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1-9 " * 250_000, r"faces is '1-9 .{36}'\.\.\., 1000000 characters of at most 1000; wanted numbers .*"),
        ("x" * 900, r"faces is 'x{40}'\.\.\.; wanted numbers .*"),
        ("1-9000 8000-10001", "faces is '1-9000 8000-10001', more than 10000 numbers; wanted numbers .*"),
    ],
)
def test_too_many_numbers(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$") as error:
        parse_numbers(text)
    assert len(str(error.value)) < 150
    assert parse_numbers("1-10000," * 100) == tuple(range(1, 10_001))  # a number counts once


def test_limits_of_pixels() -> None:
    small = Limits(megapixels=0.01)
    small.check((100, 100), 2)
    with pytest.raises(ValueError, match=r"has 101x100 pixels, 0\.0101 megapixels; at most 0\.01 megapixels"):
        small.check((101, 100), 2)
    with pytest.raises(ValueError, match=r"result would have 0\.16 megapixels, and at most 0\.04 .* smaller scale"):
        small.check((100, 100), 4)


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), 1e308])
def test_limits_are_above_nothing(value: float) -> None:
    with pytest.raises(ValueError, match=r"^max_megapixels is .*, wanted a finite number above 0$"):
        Limits(megapixels=value)
    with pytest.raises(ValueError, match=r"^max_upload_mib is .*, wanted a finite number above 0$"):
        Limits(mib=value)
    assert Limits(mib=0.5).upload_bytes == 2**19


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    noise(40, 30).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])  # decoding would say that it is cut short
    with pytest.raises(ValueError, match="has 40x30 pixels"):
        read_upload(path, Limits(megapixels=0.001), 2)
    with pytest.raises(ValueError, match=r"^large\.png cannot be decoded"):
        read_upload(path, Limits(), 2)


def test_more_pixels_than_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    source = noise(40, 30)
    source.save(tmp_path / "large.png")
    image, *_ = read_upload(tmp_path / "large.png", Limits(megapixels=0.0012), 2)
    assert image.tobytes() == source.tobytes()
    with pytest.raises(ValueError, match=r"has 40x30 pixels, 0\.0012 megapixels; at most 0\.00119 megapixels"):
        read_upload(tmp_path / "large.png", Limits(megapixels=0.00119), 2)


def test_a_header_that_is_not_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.png"
    noise(4, 3).save(path)
    decoded = Picture(noise(40, 30), None, None, [], False)
    monkeypatch.setattr(limits, "read_image", lambda path, *, max_pixels: decoded)
    assert read_upload(path, Limits(megapixels=0.0012), 2)[0] is decoded.rgb
    with pytest.raises(ValueError, match="has 40x30 pixels"):
        read_upload(path, Limits(megapixels=0.001), 2)


def test_what_is_no_picture_is_named_without_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "notes.jpg"
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"^notes\.jpg is no picture that Pillow knows"):
        read_upload(path, Limits(), 2)


@pytest.mark.parametrize(
    ("mode", "wanted"), [("L", "L"), ("LA", "LA"), ("RGB", "RGB"), ("RGBA", "RGBA"), ("CMYK", "RGB"), ("1", "L")]
)
def test_modes(tmp_path: Path, mode: str, wanted: str) -> None:
    path = tmp_path / "picture.tif"
    source = noise(5, 4, "RGBA").convert(mode)
    source.save(path)
    image, _, said = read_upload(path, Limits(), 2)
    assert image.mode == wanted
    assert image.tobytes() == source.convert(wanted).tobytes()
    assert said == (["CMYK to RGB"] if mode == "CMYK" else [])


def test_colours_that_are_grey_keep_their_profile(tmp_path: Path) -> None:
    noise(5, 4, "L").convert("RGB").save(tmp_path / "picture.png", icc_profile=b"profile")
    image, icc, _ = read_upload(tmp_path / "picture.png", Limits(), 2)
    assert (image.mode, icc) == ("RGB", b"profile")


def test_sixteen_bits_and_exif(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.array([[0, 257 * 3], [257 * 200, 65535]], np.uint16)).save(path)
    image, _, said = read_upload(path, Limits(), 2)
    assert (image.mode, list(image.tobytes())) == ("L", [0, 3, 200, 255])
    assert said == ["I;16 scaled to 8 bits"]
    exif = Image.Exif()
    exif[0x0112] = 6
    source = noise(5, 3)
    source.save(tmp_path / "turned.png", exif=exif)
    image, *_ = read_upload(tmp_path / "turned.png", Limits(), 2)
    assert image.tobytes() == source.transpose(Image.Transpose.ROTATE_270).tobytes()
