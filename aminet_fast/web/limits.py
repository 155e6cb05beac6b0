"""What a visitor may ask for: how large an upload and its result may be, and which faces."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.images import ImageError, read_image
from ..restoration.photograph_files import as_photograph
from ..restoration.sizes import read_header

_RESULT = 4  # pixels of a result over those of the largest upload
_MOST = 10_000  # numbers that a text may stand for
_LONGEST = 1000  # characters of it
_SHOWN = 40  # and of those that a message repeats


@dataclass(frozen=True)
class Limits:
    """The largest upload, in millions of pixels and in MiB; the result may have four times as many pixels.

    Raises ValueError for what is not above 0, or not finite.
    """

    megapixels: float = 32.0
    mib: float = 32.0

    def __post_init__(self) -> None:
        for name, value in (("max_megapixels", self.megapixels), ("max_upload_mib", self.mib)):
            if not 0 < value * 2**20 < math.inf:  # bytes and pixels are to be whole numbers; NaN fails too
                raise ValueError(f"{name} is {value:g}, wanted a finite number above 0")

    @property
    def upload_bytes(self) -> int:
        """Bytes of the largest upload."""
        return max(1, round(self.mib * 2**20))

    @property
    def pixels(self) -> int:
        """Pixels of the largest upload."""
        return round(self.megapixels * 1e6)

    def check(self, size: tuple[int, int], scale: int) -> None:
        """Raises ValueError where a photograph of this size, or its result, is too large."""
        pixels, most = size[0] * size[1], self.pixels
        if pixels > most:
            raise ValueError(
                f"the photograph has {size[0]}x{size[1]} pixels, {_mega(pixels)}; at most {_mega(most)} are taken here:"
                " shrink it, or crop the faces out of it"
            )
        if pixels * scale**2 > _RESULT * most:
            raise ValueError(
                f"the result would have {_mega(pixels * scale**2)}, and at most {_mega(_RESULT * most)} are made here;"
                " choose a smaller scale"
            )


def _mega(pixels: int) -> str:
    return f"{pixels / 1e6:.3g} megapixels"


def read_upload(path: Path, limits: Limits, scale: int) -> tuple[Image.Image, bytes | None, list[str]]:
    """A photograph that somebody uploaded, as `as_photograph` returns it.

    Its size is read from the header before anything is decoded; Pillow's own limit of pixels does not count.

    Raises:
        ValueError: it is no picture, or too large; the message has the file's name, not where it lies.
    """
    header = read_header(path, checked=False)
    if header is not None:
        limits.check(header.size, scale)
    try:
        picture = read_image(path, max_pixels=limits.pixels)
    except ImageError as error:
        raise ValueError(f"{path.name} {error.reason}") from error
    limits.check(picture.rgb.size, scale)  # plugins may decode another size than the header's
    return as_photograph(picture)


def parse_numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers of faces, "3,7" or "2-5 9"; None, which is all of them, where nothing is said.

    Raises ValueError for anything else, for more than 1000 characters and for more than 10 000 numbers.
    """
    text = text or ""
    wanted = "wanted numbers such as 3,7 or 2-5, or nothing for all"
    shown = repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
    if len(text) > _LONGEST:
        raise ValueError(f"faces is {shown}, {len(text)} characters of at most {_LONGEST}; {wanted}")
    numbers: dict[int, None] = {}  # in the order in which they are named
    for word in filter(None, re.split(r"[\s,;]+", text)):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last or last - first >= _MOST:
            raise ValueError(f"faces is {shown}; {wanted}")
        numbers |= dict.fromkeys(range(first, last + 1))
        if len(numbers) > _MOST:
            raise ValueError(f"faces is {shown}, more than {_MOST} numbers; {wanted}")
    return tuple(numbers) or None
