"""Which picture becomes which file: decided, and refused where it cannot be, before any work is done."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data import find_images

# What Pillow writes a whole RGB picture as. GIF, PGM and PPM would lose colours or alpha: they become PNG.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
_NAMED = 5


class Job(NamedTuple):
    """One picture to enlarge and where the result goes."""

    source: Path
    target: Path


def plan(inputs: Sequence[str], out: str | Path, *, format: str = "keep", force: bool = False) -> list[Job]:
    """Lists the pictures and the files they become.

    Args:
        inputs: pictures, folders (with their subfolders; structure kept) and globs.
        out: folder for the results. When it lies in an input folder, its own pictures are not taken as
            inputs.
        format: keep, png or jpg.
        force: results may exist already.

    Raises:
        ValueError: nothing was found, two pictures would become one file, a result would overwrite an
            input, or results exist and `force` is off; the first few are named.
        FileNotFoundError: an input does not exist and matches nothing.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out {folder} is a file; wanted a folder for the results")
    found: dict[tuple[Path, Path], Job] = {}  # a picture named twice is done once
    for root in [path for given in inputs for path in _expand(given)]:
        nested = root.is_dir() and _inside(folder, root) and not _inside(root, folder)
        for source in find_images(root):
            if nested and _inside(source, folder):
                continue
            relative = source.relative_to(root) if root.is_dir() else Path(source.name)
            target = folder / relative.with_suffix(_suffix(source, format))
            found[source.resolve(), target] = Job(source, target)
    jobs = list(found.values())
    if not jobs:
        wanted = ", ".join(inputs) if inputs else "nothing was given"
        raise ValueError(f"no pictures to upscale ({wanted}); name files, folders or globs")
    _refuse_clashes(jobs)
    existing = [job.target for job in jobs if job.target.exists()]
    if existing and not force:
        raise ValueError(
            f"{len(existing)} of {len(jobs)} results exist already: {_first(existing)}; "
            "pass --force to overwrite them, or another --out"
        )
    return jobs


def _expand(given: str) -> list[Path]:
    """A path that exists stands for itself; anything else is a glob."""
    path = Path(given).expanduser()
    if path.exists() or path.is_symlink():
        return [path]
    matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
    if not matches:
        raise FileNotFoundError(f"{given}: no such file or folder, and nothing matches it as a glob")
    return matches


def _suffix(source: Path, format: str) -> str:
    if format != "keep":
        return f".{format}"
    return source.suffix if source.suffix.lower() in FORMATS else ".png"


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _refuse_clashes(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    over = [job.target for job in jobs if job.target.resolve() in sources]
    if over:
        raise ValueError(
            f"{len(over)} results would overwrite pictures that are inputs: {_first(over)}; choose another --out"
        )
    owners: dict[str, Path] = {}
    for source, target in jobs:
        # Windows and macOS take Face.png and face.png for one file
        other = owners.setdefault(os.path.normpath(target).casefold(), source)
        if other.resolve() != source.resolve():
            raise ValueError(
                f"{other} and {source} would both become {target}; rename one, or upscale them to different folders"
            )


def _first(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(str(p) for p in paths[:_NAMED]) + more
