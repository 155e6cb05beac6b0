"""Data sets as they are downloaded: SCface, and paired LR/HR folders. CelebA: `celeba`. Helen: `helen`."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from .config import DataConfig, DataError
from .images import find_images
from .listing import Item, Listing, relative_name, split_folders, split_items

log = logging.getLogger(__name__)

LOOKED_FOR = {
    "folder": "pictures (.jpg, .png, .webp and whatever else Pillow opens), also in subfolders",
    "celeba": "img_align_celeba/ (or _png) with list_eval_partition.txt (or .csv) in it, beside it or above it",
    "helen": "pictures with annotation/*.txt (194 points), or with a .pts file (68 points) beside each",
    "scface": "pictures named like 001_cam1_1.jpg, best in surveillance_cameras_all/",
    "paired": "folders LR/ and HR/ (also under train/, val/, test/) with pictures of the same names",
}

_SCFACE = re.compile(r"\d{3}_cam[1-8](_[1-3])?", re.IGNORECASE)


def list_scface(root: Path, config: DataConfig) -> Listing | None:
    """SCface's surveillance pictures: LR alone, one split "test". Its mugshots are left out.

    The distribution has every picture twice, in surveillance_cameras_all and by distance; the first is taken.
    """
    pictures = find_images(root)
    shots = [path for path in pictures if _SCFACE.fullmatch(path.stem)]
    auto = config.layout == "auto"
    if not shots or (auto and any("mugshot" not in str(p.parent).lower() for p in set(pictures) - set(shots))):
        return None
    once = [path for path in shots if "surveillance_cameras_all" in path.parts] or shots
    items = [Item(relative_name(path, root), lr=path) for path in once]
    return Listing("scface", str(root), {"test": items, "all": items}, ["LR only: there is no HR to compare with"])


def list_paired(root: Path, config: DataConfig) -> Listing | None:
    """LR/ and HR/ folders, matched by their path without ending; right under `root` or under its splits."""
    bases = [root]
    if _side(root, "hr") is None:
        bases = [root / name for names in split_folders(root).values() for name in names]
    items: list[Item] = []
    notes: list[str] = []
    found = False
    for base in bases:
        hr, lr = _side(base, "hr"), _side(base, "lr")
        if hr is None or lr is None:
            continue
        found = True
        prefix = "" if base == root else f"{base.name}/"
        items += _match(hr, lr, prefix, notes)
    if not found:
        return None
    if not items:
        raise DataError(f"no pairs under {root}: no picture in LR/ has one of the same name in HR/")
    return Listing("paired", str(root), split_items(root, items), notes)


def _side(base: Path, name: str) -> Path | None:
    return next((p for p in sorted(base.iterdir()) if p.is_dir() and p.name.lower() == name), None)


def _match(hr: Path, lr: Path, prefix: str, notes: list[str]) -> list[Item]:
    highs, lows = _by_stem(hr), _by_stem(lr)
    for have, other, where in ((highs, lows, lr), (lows, highs, hr)):
        alone = sorted(set(have) - set(other))
        if alone:
            named = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
            notes.append(f"{len(alone)} pictures have no partner in {where}: {named}")
            log.warning("%d pictures have no partner in %s and are left out: %s", len(alone), where, named)
    both = sorted(set(highs) & set(lows))
    return [Item(prefix + relative_name(highs[s], hr), hr=highs[s], lr=lows[s]) for s in both]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in find_images(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(f"{path} and {found[stem]} differ by their ending alone: pairs would be ambiguous")
        found[stem] = path
    return found
