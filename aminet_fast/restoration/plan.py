"""Which picture becomes which file: decided, and refused where it cannot be, before any work is done."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..data.formats import in_words
from ..data.images import look_through
from ..output.listing import first_few

# What Pillow writes a whole RGB picture as. Others (GIF, PPM, TGA, ...) would lose colours or alpha: they become PNG.
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".jfif": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}


class Job(NamedTuple):
    """One picture to enlarge and where the result goes."""

    source: Path
    target: Path


class Plan(NamedTuple):
    """What there is to do, what is done already, and what nobody will do."""

    jobs: list[Job]
    existing: list[Path]  # results left as they are
    left_out: Counter[str]  # files in the folders that Pillow does not open, by ending
    every: list[Job]  # those to do and those done, in the order of the inputs


def plan(
    inputs: Sequence[str],
    out: str | Path,
    *,
    format: str = "keep",
    force: bool = False,
    skip_existing: bool = False,
    verb: str = "upscale",
) -> Plan:
    """Lists the pictures and the files they become.

    Args:
        inputs: pictures, folders (with their subfolders; structure kept) and globs.
        out: folder for the results. When it lies in an input folder, its own pictures are not taken as
            inputs.
        format: keep, png or jpg.
        force: results may exist already, and are made anew.
        skip_existing: results that exist already are kept; a result appears whole, so one that exists is one.
        verb: what is done with pictures, for messages.

    Raises:
        ValueError: nothing was found, several pictures would become one file, a result would overwrite an
            input, or results exist and neither `force` nor `skip_existing` is on; the first few are named. Or both
            are on.
        FileNotFoundError: an input does not exist and matches nothing.
    """
    if force and skip_existing:
        raise ValueError("force overwrites results that exist, skip_existing keeps them; give one of the two")
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out {folder} is a file; wanted a folder for the results")
    found: dict[tuple[Path, Path], Job] = {}  # a picture named twice is done once
    left_out: Counter[str] = Counter()
    for root in dict.fromkeys(path for given in inputs for path in _expand(given)):
        nested = root.is_dir() and _inside(folder, root) and not _inside(root, folder)
        pictures, others = look_through(root)
        left_out += others - look_through(folder)[1] if nested and folder.is_dir() else others
        for source in pictures:
            if nested and _inside(source, folder):
                continue
            relative = source.relative_to(root) if root.is_dir() else Path(source.name)
            target = folder / relative.with_suffix(_suffix(source, format))
            found[source.resolve(), target] = Job(source, target)
    jobs = list(found.values())
    if not jobs:
        wanted = ", ".join(inputs) if inputs else "nothing was given"
        have = f"; found {in_words(left_out)}, which Pillow does not open" if left_out else ""
        raise ValueError(f"no pictures to {verb} ({wanted}{have}); name files, folders or globs")
    _refuse_clashes(jobs, verb)
    existing = [job.target for job in jobs if job.target.exists()]
    if existing and not force and not skip_existing:
        raise ValueError(
            f"{len(existing)} of {len(jobs)} results exist already: {first_few(existing)}; "
            "pass --skip_existing to keep them and go on with the others, --force to overwrite them, or another --out"
        )
    kept = set(existing) if skip_existing else set()
    to_do = [job for job in jobs if job.target not in kept]
    return Plan(to_do, [path for path in existing if path in kept], left_out, jobs)


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


def _refuse_clashes(jobs: Sequence[Job], verb: str) -> None:
    sources = {job.source.resolve() for job in jobs}
    over = [job.target for job in jobs if job.target.resolve() in sources]
    if over:
        raise ValueError(
            f"{len(over)} results would overwrite pictures that are inputs: {first_few(over)}; choose another --out"
        )
    owners: dict[str, dict[Path, Job]] = {}
    for job in jobs:
        # Windows and macOS take Face.png and face.png for one file
        owners.setdefault(os.path.normpath(job.target).casefold(), {}).setdefault(job.source.resolve(), job)
    clashes = [list(group.values()) for group in owners.values() if len(group) > 1]
    if clashes:
        named = [
            f"{' and '.join(str(job.source) for job in group)} would {'both' if len(group) == 2 else 'all'} become "
            f"{group[-1].target}"
            for group in clashes
        ]
        raise ValueError(
            f"{len(clashes)} results would be of several pictures: {first_few(named)}; rename these, or {verb} them "
            "to different folders"
        )
