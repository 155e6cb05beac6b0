"""A folder of odd and broken picture files, and what must become of each."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image


class Expectation(NamedTuple):
    """`reads`: read_image gives a picture (of `size`); `usable`: a data set keeps it. `says` is a part of the
    error's reason when it does not read, and of the notes when it does."""

    reads: bool
    usable: bool
    says: str = ""
    size: tuple[int, int] = (160, 144)


def make_zoo(folder: Path) -> dict[str, Expectation]:
    """Fill `folder`; returns the expectation of every file by its name relative to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {**_good(folder), **_bad(folder)}


def ramp(width: int = 160, height: int = 144) -> Image.Image:
    """RGB in which every channel differs and no symmetry hides a rotation."""
    x = np.linspace(0, 255, width)[None, :]
    y = np.linspace(0, 255, height)[:, None]
    planes = [x + 0 * y, 0 * x + y, (x * 0.5 + y * 0.5)[::-1]]
    return Image.fromarray(np.rint(np.stack(planes, -1)).astype(np.uint8))


def _good(folder: Path) -> dict[str, Expectation]:
    image, fine = ramp(), Expectation(True, True)
    image.save(folder / "plain.png")
    image.save(folder / "plain.jpg", quality=95)
    image.save(folder / "UPPER.JPG", quality=95)
    image.save(folder / "wörld ✓ [1].png")
    image.convert("L").save(folder / "grey.png")
    image.convert("1").save(folder / "one_bit.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, 160).astype(np.uint8), (144, 1)))
    rgba = image.copy()
    rgba.putalpha(alpha)
    rgba.save(folder / "rgba.png")
    grey_alpha = image.convert("L")
    grey_alpha.putalpha(alpha)
    grey_alpha.save(folder / "la.png")
    image.convert("P").save(folder / "palette_transparent.png", transparency=3)
    wide = np.tile(np.linspace(0, 65535, 160), (144, 1)).round().astype(np.uint16)
    Image.fromarray(wide).save(folder / "grey16.png")
    Image.fromarray(wide).save(folder / "grey16.tif")
    (folder / "rgb16.png").write_bytes(_rgb16_png(160, 144))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "exif_rotated.jpg", exif=exif, quality=95)
    image.save(folder / "animated.gif", save_all=True, append_images=[image.rotate(180)])
    image.save(folder / "icc.png", icc_profile=b"not checked, only carried")
    for name in ("one", "two"):  # the same file name in two folders
        (folder / name).mkdir(exist_ok=True)
        image.rotate(0 if name == "one" else 180).save(folder / name / "same.png")
    image.save(folder / "one" / "same.jpg", quality=95)
    (folder / "folder.png").mkdir(exist_ok=True)  # a folder that is named like a picture
    image.save(folder / "folder.png" / "inside.png")
    image.resize((40, 36)).save(folder / "tiny.png")
    image.resize((1, 1)).save(folder / "one_pixel.png")
    image.resize((400, 3)).save(folder / "sliver.png")
    (folder / "._plain.jpg").write_bytes(b"macOS resource fork")  # must not even be counted
    (folder / "notes.txt").write_text("no picture")
    return {
        "plain.png": fine,
        "plain.jpg": fine,
        "UPPER.JPG": fine,
        "wörld ✓ [1].png": fine,
        "grey.png": Expectation(True, True, "L to RGB"),
        "one_bit.png": Expectation(True, True, "1 to RGB"),
        "palette.png": Expectation(True, True, "P to RGB"),
        "cmyk.jpg": Expectation(True, True, "CMYK to RGB"),
        "rgba.png": Expectation(True, True, "alpha"),
        "la.png": Expectation(True, True, "alpha"),
        "palette_transparent.png": Expectation(True, True, "alpha"),
        "grey16.png": Expectation(True, True, "scaled to 8 bits"),
        "grey16.tif": Expectation(True, True, "scaled to 8 bits"),
        "rgb16.png": fine,
        "exif_rotated.jpg": Expectation(True, True, "rotated by EXIF"),
        "animated.gif": Expectation(True, True, "first of several frames"),
        "icc.png": fine,
        "one/same.png": fine,
        "one/same.jpg": fine,
        "two/same.png": fine,
        "folder.png/inside.png": fine,
        "tiny.png": Expectation(True, True, size=(40, 36)),
        "one_pixel.png": Expectation(True, False, size=(1, 1)),
        "sliver.png": Expectation(True, False, size=(400, 3)),
    }


def _bad(folder: Path) -> dict[str, Expectation]:
    buffer = io.BytesIO()
    ramp().save(buffer, "JPEG", quality=95)
    jpeg = buffer.getvalue()
    buffer = io.BytesIO()
    ramp().save(buffer, "PNG")
    png = buffer.getvalue()
    contents = {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "cannot be decoded"),
        "truncated.png": (png[: len(png) // 2], "cannot be decoded"),
        "header_only.jpg": (jpeg[:20], "is no picture"),
        "flipped_bits.png": (png[:60] + bytes(255 - b for b in png[60:200]) + png[200:], "cannot be decoded"),
        "text.png": (b"this is no picture at all\n" * 40, "is no picture"),
        "page.jpg": (b"<!DOCTYPE html><title>404 Not Found</title>", "is no picture"),
        "empty.png": (b"", "is empty"),
        "zeros.jpg": (bytes(5000), "is no picture"),
        "bomb.png": (_header_png(60_000, 60_000), "is too large"),
        "large.png": (_header_png(12_000, 9_000), "is too large"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    link = folder / "broken_link.png"
    if not link.is_symlink():
        link.symlink_to(folder / "gone.png")
    bad = {name: Expectation(False, False, says) for name, (_, says) in contents.items()}
    return {**bad, "broken_link.png": Expectation(False, False, "is a broken link")}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _header_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has next to no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + _chunk(b"IDAT", zlib.compress(bytes(64)))
        + _chunk(b"IEND", b"")
    )


def _rgb16_png(width: int, height: int) -> bytes:
    """16 bits a channel, which Pillow reads but does not write: red rises 0..65535 from left to right."""
    pixels = np.zeros((height, width, 3), ">u2")
    pixels[..., 0] = np.linspace(0, 65535, width).round()
    pixels[..., 1] = 0x8000
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
