"""Pictures: finding, reading, cropping, and the way to tensors and back."""

from __future__ import annotations

import logging
import os
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .formats import counts, ending_of, readable, suffixes, why_not

log = logging.getLogger(__name__)

_ROWS = 64  # of a 16-bit picture at a time


class ImageError(ValueError):
    """A file that is no usable picture. The message names the file, `reason` says what is wrong with it."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both in args, so that it pickles
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Picture:
    """A decoded picture: 8-bit RGB upright, its alpha channel (mode L) and ICC profile when it has them, and
    `notes`, one short line for each thing that was converted or dropped. `grey`: the file has no colours (modes 1, L,
    LA, I, F); the three channels of `rgb` are one."""

    rgb: Image.Image
    alpha: Image.Image | None = None
    icc: bytes | None = None
    notes: list[str] = field(default_factory=list)
    grey: bool = False


class Found(NamedTuple):
    """The pictures of a folder, sorted, and how many of its other files were left out, by their endings."""

    pictures: list[Path]
    left_out: Counter[str]


def find_images(path: str | os.PathLike[str]) -> list[Path]:
    """All files under `path` with an ending that Pillow opens (see `formats`), recursive, sorted.

    A file stands for itself, whatever it is called. Links to folders are followed, each real folder once. Names that
    begin with a dot and `__MACOSX` are left out. Raises FileNotFoundError when `path` does not exist.
    """
    return look_through(path).pictures


def look_through(path: str | os.PathLike[str]) -> Found:
    """As `find_images`, with a count of the files that are left out; hidden ones and the system's are not counted."""
    root = Path(path)
    if root.is_file():
        return Found([root], Counter())
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such file or folder; wanted a picture or a folder of pictures")
    endings = suffixes()
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_warn_folder):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__MACOSX")
        for name in filter(counts, files):  # "._x.jpg" is what macOS leaves beside x.jpg in archives: no picture
            ending = ending_of(name)
            if ending in endings:
                found.append(Path(folder, name))
            else:
                left_out[ending] += 1
    return Found(sorted(found), left_out)


def _warn_folder(error: OSError) -> None:
    log.warning("skipped the folder %s: %s", error.filename, error.strerror)


def read_image(path: str | os.PathLike[str], *, max_pixels: int | None = None) -> Picture:
    """Decode a picture file by Pillow to upright 8-bit RGB.

    Grey, palette, CMYK and other modes become RGB; 16-bit grey is scaled by 1/257, not clipped; alpha and the
    ICC profile come back beside it; EXIF rotation is applied; of several frames the first is taken.
    Raises ImageError with the reason for anything that is no whole picture, and for more than `max_pixels` pixels:
    None is `PIL.Image.MAX_IMAGE_PIXELS` (set that to None to lift the limit).
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise ImageError(file, "is a folder")
        if file.stat().st_size == 0:
            raise ImageError(file, "is empty (0 bytes)")
        with open_image(file, checked=max_pixels is None) as image:
            limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
            if limit is not None and image.width * image.height > limit:
                raise ImageError(file, f"is too large ({image.width}x{image.height} pixels, limit {limit})")
            image.load()
            return _to_picture(file, image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(file, f"is too large ({error})") from error
    except FileNotFoundError as error:
        what = "is a broken link" if file.is_symlink() else "does not exist"
        raise ImageError(file, what) from error
    except PermissionError as error:
        raise ImageError(file, "may not be read (permission denied)") from error
    except UnidentifiedImageError as error:
        raise ImageError(file, f"is no picture that Pillow knows{why_not(file)}") from error
    except MemoryError as error:
        raise ImageError(file, "is larger than the memory that is left") from error
    except Exception as error:  # damaged files make Pillow's plugins raise almost anything
        raise ImageError(file, f"cannot be decoded ({str(error) or type(error).__name__})") from error


@contextmanager
def open_image(path: str | os.PathLike[str], *, checked: bool = True) -> Iterator[Image.Image]:
    """Opens a picture's file by Pillow, its pixels not decoded yet; raises what Pillow raises.

    Args:
        path: the file.
        checked: as Pillow does, refuse twice `PIL.Image.MAX_IMAGE_PIXELS`, and warn from there on. Without it the
            caller looks at the size: that limit is one for the whole process, and other threads rely on it.
    """
    if checked:
        with Image.open(path, formats=readable()) as image:
            yield image
        return
    with open(path, "rb") as file:
        yield _first_that_opens(file, os.fspath(path))


def _first_that_opens(file: BinaryIO, name: str) -> Image.Image:
    """What PIL.Image.open does, without its look at the size."""
    formats = readable()  # registers Pillow's plugins
    prefix = file.read(16)
    for format in formats:
        factory, accept = Image.OPEN[format]
        try:
            accepted = accept is None or accept(prefix)
            if accepted and not isinstance(accepted, str):  # a text says why not
                file.seek(0)
                return factory(file, name)
        except (SyntaxError, IndexError, TypeError, struct.error):  # not of this format after all
            continue
    raise UnidentifiedImageError(f"cannot identify image file {name!r}")


def _to_picture(file: Path, image: Image.Image) -> Picture:
    notes: list[str] = []
    if has_frames(image):
        notes.append("first of several frames")
    icc = image.info.get("icc_profile")
    upright = ImageOps.exif_transpose(image)
    if image.getexif().get(0x0112) in range(2, 9):
        notes.append("rotated by EXIF")
    mode = upright.mode
    wide = mode.startswith("I") or mode == "F"
    if wide:
        upright = to_grey(file, upright)
        notes.append(f"{mode} scaled to 8 bits")
    elif mode not in ("RGB", "RGBA"):
        notes.append(f"{mode} to RGB")
    alpha = None
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        alpha = upright.getchannel("A")
        notes.append("alpha channel")
    if icc and mode not in ("RGB", "RGBA", "P"):  # a grey or CMYK profile says nothing about RGB values
        icc = None
        notes.append(f"ICC profile for {mode} dropped")
    return Picture(upright.convert("RGB"), alpha, icc or None, notes, wide or mode in ("1", "L", "LA", "La"))


def has_frames(image: Image.Image) -> bool:
    """Whether an opened file has more pictures than the first; layers of a PSD are none, it opens as the whole."""
    return getattr(image, "n_frames", 1) > 1 and image.format != "PSD"


def to_grey(file: str | Path, image: Image.Image) -> Image.Image:
    """Wide grey modes (I, I;16, F) to L: integers by 1/257, floats from [0, 1] or [0, 255]. Raises ImageError."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 65535) or (image.mode == "F" and high > 255):
        want = "[0, 1] or [0, 255]" if image.mode == "F" else "[0, 65535]"
        raise ImageError(file, f"has values from {low:g} to {high:g} in mode {image.mode}, wanted {want}")
    times, over = (1.0, 257.0) if image.mode != "F" else (255.0 if high <= 1 else 1.0, 1.0)
    levels = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), _ROWS):  # float64 takes 8 bytes a pixel, and what is rounded as many
        levels[row : row + _ROWS] = np.rint(values[row : row + _ROWS].astype(np.float64) * times / over)
    return Image.fromarray(levels)


def center_crop(image: Image.Image, side: int | None = None) -> Image.Image:
    """The middle square of `side` pixels, or the largest one when `side` is None or does not fit."""
    width, height = image.size
    side = min(width, height, side or width)
    # rounded as torchvision's CenterCrop does it
    left, top = round((width - side) / 2), round((height - side) / 2)
    return image if image.size == (side, side) else image.crop((left, top, left + side, top + side))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """PIL RGB (H, W) to float32 [3, H, W] in [-1, 1]."""
    pixels = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))  # [H, W, 3]
    # NumPy turns bytes around faster than PyTorch does while it converts them.
    planes = np.array(pixels.transpose(2, 0, 1), order="C")
    return torch.from_numpy(planes).to(torch.float32).div_(127.5).sub_(1.0)


def to_image(tensor: torch.Tensor) -> Image.Image:
    """float [3, H, W] in [-1, 1] to PIL RGB, clamped and rounded half to even; undoes `to_tensor` exactly.

    Raises ValueError for another shape, and for values that are not finite.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"to_image takes one picture [3, H, W], got {list(tensor.shape)}; index the batch first")
    values = tensor.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(values).all()):
        raise ValueError("to_image got NaN or infinite values; a picture needs finite ones in [-1, 1]")
    pixels = values.add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
