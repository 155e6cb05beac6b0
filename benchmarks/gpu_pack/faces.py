"""``python -m benchmarks.gpu_pack.faces``: a folder of faces as one small archive that travels, and back again.

Pictures are cut and resized to 128x128 as aminet_fast.data does it, and stored as JPEG without chroma subsampling.
Those of the training folder get the best quality with which all of them fit; the few of the others, with which networks
are compared, stay as they are where they have that size already. Folders and names stay, and so do the splits.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .sizes import MIB

ARCHIVE, ABOUT = "faces.zip", "faces.json"
FOLDERS = ("train", "val", "test_a")
TRAIN = "train"
QUALITIES = range(98, 69, -1)
MOST = 34.5  # MiB


@dataclass(frozen=True)
class Stored:
    """A picture in the archive, and its mean squared error against what it was made of, in grey levels."""

    name: str
    data: bytes
    error: float


def pack(source: Path, out: Path, most: float = MOST) -> dict[str, Any]:
    """Writes out/faces.zip; what is known of it. ValueError where there are no pictures, or they cannot fit.

    source: has train/ and perhaps val/ and test_a/, or pictures alone. most: MiB.
    """
    pictures = list_pictures(source)
    if not pictures:
        raise ValueError(f"no pictures in {source}; wanted a folder of them, or with folders {', '.join(FOLDERS)}")
    others = [kept(path, name) for name, path in pictures.items() if not name.startswith(f"{TRAIN}/")]
    room = int(most * MIB) - sum(map(packed_size, others))
    quality, train = best({name: path for name, path in pictures.items() if name.startswith(f"{TRAIN}/")}, room)
    about = {"pictures": len(pictures), "train": described(train, f"JPEG 4:4:4, quality {quality}")}
    about |= {"others": described(others, "as they were")} if others else {}
    out.mkdir(parents=True, exist_ok=True)
    part = out / f"{ARCHIVE}.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for stored in (*train, *others):
            archive.writestr(zipfile.ZipInfo(stored.name), stored.data)
        archive.writestr(zipfile.ZipInfo(ABOUT), json.dumps(about, indent=1))
    part.replace(out / ARCHIVE)
    return about | {"bytes": (out / ARCHIVE).stat().st_size}


def list_pictures(source: Path) -> dict[str, Path]:
    """By name in the archive; a folder without train/ is one of training pictures."""
    from aminet_fast.data import find_images

    folders = [name for name in FOLDERS if (source / name).is_dir()]
    if TRAIN not in folders:
        found = {path: f"{TRAIN}/{path.relative_to(source).as_posix()}" for path in find_images(source)}
    else:
        found = {path: path.relative_to(source).as_posix() for name in folders for path in find_images(source / name)}
    return {str(Path(name).with_suffix(".jpg")): path for path, name in found.items()}


def kept(path: Path, name: str) -> Stored:
    """The file itself where it is a JPEG of the size, else the best that a JPEG can be."""
    from PIL import Image

    with Image.open(path) as image:
        if image.format == "JPEG" and image.size == (128, 128):
            return Stored(name, path.read_bytes(), 0.0)
    return encoded(face(path), name, 98)


def face(path: Path) -> Any:
    """uint8 [128, 128, 3], as aminet_fast.data reads it."""
    from aminet_fast.data import DataConfig
    from aminet_fast.data.decode import decode
    from aminet_fast.data.listing import Item

    return decode(Item(path.name, hr=path), DataConfig()).hr


def encoded(pixels: Any, name: str, quality: int) -> Stored:
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0, optimize=True, progressive=True)
    difference = np.asarray(Image.open(file)).astype(np.float64) - pixels
    return Stored(name, file.getvalue(), float(np.square(difference).mean()))


def best(pictures: dict[str, Path], room: int) -> tuple[int, list[Stored]]:
    """The highest quality with which all fit into so many bytes, and the pictures. ValueError: none does."""
    pixels = {name: face(path) for name, path in pictures.items()}
    low, high, found = 0, len(QUALITIES), None  # the first of QUALITIES that fits lies in [low, high]
    while low < high:
        middle = (low + high) // 2
        tried = [encoded(array, name, QUALITIES[middle]) for name, array in pixels.items()]
        if sum(map(packed_size, tried)) <= room:
            high, found = middle, (QUALITIES[middle], tried)
        else:
            low = middle + 1
    if found is None:
        raise ValueError(f"{len(pictures)} pictures do not fit into {room / MIB:.1f} MiB at quality {QUALITIES[-1]}")
    return found


def packed_size(stored: Stored) -> int:
    return len(stored.data) + 76 + 2 * len(stored.name)  # the archive's two headers of a file


def described(stored: Iterable[Stored], how: str) -> dict[str, Any]:
    """Their number, how they are stored, their bytes, and PSNR against what they were made of, mean and least."""
    import numpy as np

    members = list(stored)
    found: dict[str, Any] = {"count": len(members), "stored": how, "bytes": sum(len(s.data) for s in members)}
    errors = np.array([s.error for s in members])
    if errors.size and errors.min() > 0:
        ratios = 10 * np.log10(255**2 / errors)
        found |= {"psnr_mean": round(float(ratios.mean()), 1), "psnr_least": round(float(ratios.min()), 1)}
    return found


def unpacked(folder: Path, into: Path) -> Path:
    """The root for aminet_fast.data.DataConfig: `into`, with what was in the folder's faces.zip; without one, `folder`.

    Nothing is done where it is there already.
    """
    archive, done = folder / ARCHIVE, into / ABOUT
    if not archive.exists():
        return folder
    with zipfile.ZipFile(archive) as file:
        if not done.exists() or done.read_bytes() != file.read(ABOUT):
            names = [name for name in file.namelist() if name != ABOUT]
            file.extractall(into, names)
            file.extract(ABOUT, into)  # last: it says that the others are whole
    return into


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack.faces", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".gpu/faces"), help="folder of faces.zip")
    parser.add_argument("--from", dest="source", type=Path, help="folder of pictures, or with train/, val/, test_a/")
    parser.add_argument("--most", type=float, default=MOST, help="MiB of the archive")
    parser.add_argument("--unpack", type=Path, metavar="FOLDER", help="the other way: unpack --out into this folder")
    options = parser.parse_args()
    if (options.source is None) == (options.unpack is None):
        parser.error("give --from or --unpack")
    if options.unpack is not None:
        print(unpacked(options.out, options.unpack))
        return
    try:
        print(json.dumps(pack(options.source, options.out, options.most)))
    except (OSError, ValueError) as error:
        print(f"gpu-pack: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
