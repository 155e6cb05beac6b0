"""How large results will be, told from the pictures' headers: what no format or machine can hold costs no work."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.images import open_image
from ..output.listing import first_few
from .plan import FORMATS, Job

# What files of a format can hold: pixels of a side, and bytes of a file.
LARGEST_SIDE = {"WEBP": 16_383, "JPEG": 65_500, "BMP": 2**31 - 1, "PNG": 2**31 - 1, "TIFF": 2**31 - 1}
LARGEST_FILE = {"BMP": 2**32 - 1, "TIFF": 2**32 - 1}
# Of a result's pixel: enlarged and restored picture as Pillow has them (4 each) and as an array, and the file's bytes.
_BYTES = 12
# Of a photograph's pixel: read, turned and converted, 4 each. docs/restoration.md has what was measured.
_PROGRAM, _OF_PHOTOGRAPH = 1200 * 1000**2, 12

Size = tuple[int, int]  # width, height


def shrunk(size: Size, lr_size: int | None) -> Size:
    """The size to which a picture is shrunk until its short side has `lr_size` pixels; its own where that is less."""
    if lr_size is None or min(size) <= lr_size:
        return size
    ratio = lr_size / min(size)
    return round(size[0] * ratio), round(size[1] * ratio)


class Header(NamedTuple):
    """What a picture's header says."""

    size: Size
    alpha: bool


def header_size(path: Path) -> Size | None:
    """Width and height as the header says; None where that cannot be read (reading the picture will say why)."""
    header = read_header(path)
    return None if header is None else header.size


def read_header(path: Path, *, checked: bool = True) -> Header | None:
    """As `header_size`; with `checked` None also where Pillow refuses so many pixels, as in `open_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of very many pixels; reading says that too
            with open_image(path, checked=checked) as image:
                return Header(image.size, image.has_transparency_data)
    except Exception:  # damaged files make Pillow's plugins raise almost anything
        return None


def refuse_too_large(jobs: Sequence[Job], *, scale: int = 8, lr_size: int | None = None) -> None:
    """Raises ValueError naming the results that their format cannot hold.

    Args:
        jobs: pictures and the files they are to become.
        scale: sides of a result over those of what the network is given.
        lr_size: to which pictures are shrunk first, as `shrunk`.
    """
    too_large: list[str] = []
    limits: dict[str, str] = {}
    for job in jobs:
        size = header_size(job.source)
        if size is None:
            continue
        width, height = (side * scale for side in shrunk(size, lr_size))
        format = FORMATS[job.target.suffix.lower()]
        if max(width, height) > LARGEST_SIDE[format]:
            limits[format] = f"{format} has sides of {LARGEST_SIDE[format]} pixels at most"
        elif 3 * width * height > LARGEST_FILE.get(format, 3 * width * height):
            limits[format] = f"{format} has {(LARGEST_FILE[format] + 1) // 2**30} GiB at most"
        else:
            continue
        too_large.append(f"{job.source} ({width}x{height})")
    if too_large:
        raise ValueError(
            f"{len(too_large)} of {len(jobs)} results are larger than their format holds: {first_few(too_large)}; "
            f"{', '.join(limits.values())}: pass --format png, or shrink first by --lr_size"
        )


def too_large_for_memory(size: Size, scale: int = 8) -> str | None:
    """What is wrong with a picture of this size whose result the machine's memory cannot hold, or None."""
    width, height = (side * scale for side in size)
    needed, there = _BYTES * width * height, _memory()
    if there is None or needed <= there:
        return None
    return f"{_takes((width, height), needed, there)}; crop a face out of it, or shrink it by --lr_size 16"


def photograph_too_large_for_memory(photograph: Header, scale: int) -> str | None:
    """As `too_large_for_memory` for a photograph that is enlarged `scale` times; names the largest scale that fits."""
    there, needed = _memory(), _photograph_bytes(photograph, scale)
    if there is None or needed <= there:
        return None
    fits = [less for less in range(2, scale) if _photograph_bytes(photograph, less) <= there]
    remedy = f"--scale {fits[-1]} fits" if fits else "crop it, or shrink it first"
    width, height = photograph.size
    return f"{_takes((width * scale, height * scale), needed, there)}; {remedy}"


def photograph_too_large_to_read(photograph: Header) -> str | None:
    """As `too_large_for_memory` for a photograph of which only parts are kept."""
    there, needed = _memory(), _photograph_bytes(photograph, 0)
    if there is None or needed <= there:
        return None
    width, height = photograph.size
    return (
        f"its {width}x{height} pixels take {needed / 2**30:.1f} GiB of memory, and the machine has "
        f"{there / 2**30:.1f}; crop it, or shrink it first"
    )


def _photograph_bytes(photograph: Header, scale: int) -> int:
    """What the program, a photograph and its result take, as docs/restoration.md has it."""
    pixels = photograph.size[0] * photograph.size[1]
    return _PROGRAM + _OF_PHOTOGRAPH * pixels + (6 if photograph.alpha else 5) * pixels * scale**2


def _takes(result: Size, needed: int, there: int) -> str:
    return (
        f"its result of {result[0]}x{result[1]} pixels takes {needed / 2**30:.1f} GiB of memory, and the machine has "
        f"{there / 2**30:.1f}"
    )


def _memory() -> int | None:
    """Bytes of the machine's memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
