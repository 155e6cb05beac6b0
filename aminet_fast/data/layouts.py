"""The public data sets as they are downloaded: CelebA, SCface, and paired LR/HR folders. Helen: `helen`."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..output.atomic import atomic_write
from .config import DataConfig, DataError
from .images import find_images
from .listing import Item, Listing, draw, relative_name, split_folders, split_items, suffix_list

log = logging.getLogger(__name__)

LOOKED_FOR = {
    "folder": f"pictures ({suffix_list()}), also in subfolders",
    "celeba": "img_align_celeba/ with list_eval_partition.txt (or .csv) in it, beside it or above it",
    "helen": "pictures with annotation/*.txt (194 points), or with a .pts file (68 points) beside each",
    "scface": "pictures named like 001_cam1_1.jpg, best in surveillance_cameras_all/",
    "paired": "folders LR/ and HR/ (also under train/, val/, test/) with pictures of the same names",
}

CELEBA_TRAIN, CELEBA_TEST = 18_000, 1_000
_PARTITION = ("list_eval_partition.txt", "list_eval_partition.csv")


def list_celeba(root: Path, config: DataConfig) -> Listing | None:
    """CelebA's aligned pictures by the official partition (0 train, 1 val, 2 test).

    With subset "paper", 18,000 train and 1,000 val and test pictures each are drawn by `config.seed` and the
    lists are written into the cache folder; "official" keeps whole partitions. "all" is every listed picture.
    """
    partition, folder = _partition_file(root), _aligned_folder(root)
    if partition is None or folder is None:
        return None
    splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    present = {path.name for path in folder.iterdir()}
    missing = 0
    for name, number in _read_partition(partition):
        if name in present:
            splits[("train", "val", "test")[number]].append(Item(name, hr=folder / name))
        else:
            missing += 1
    everything = sorted((item for part in splits.values() for item in part), key=lambda item: item.name)
    if not everything:
        raise DataError(f"none of the pictures of {partition} is in {folder}; unpack img_align_celeba.zip there")
    notes = [f"partition from {partition}"]
    if missing:
        notes.append(f"{missing} listed pictures are missing")
        log.warning("%d of the pictures that %s lists are not in %s", missing, partition, folder)
    if config.subset == "paper":
        for split, count in (("train", CELEBA_TRAIN), ("val", CELEBA_TEST), ("test", CELEBA_TEST)):
            splits[split] = draw(splits[split], count, config.seed)
            notes += _write_list(config, split, splits[split])
    return Listing("celeba", str(root), {**splits, "all": everything}, notes)


def _partition_file(root: Path) -> Path | None:
    # Google Drive's folder keeps it in Eval/, beside Img/
    places = [root, root / "Eval", root.parent, root.parent / "Eval", root.parent.parent]
    return next((p / name for p in places for name in _PARTITION if (p / name).is_file()), None)


def _aligned_folder(root: Path) -> Path | None:
    """The folder that has the pictures themselves; Kaggle's archive nests it in one of the same name."""
    name = "img_align_celeba"
    places = [root / name / name, root / name, root / "Img" / name / name, root / "Img" / name]
    if root.name == name:
        places = [root / name, root]
    return next((p for p in places if p.is_dir() and next(p.glob("[0-9]*.*"), None)), None)


def _read_partition(path: Path) -> list[tuple[str, int]]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields or fields[0] == "image_id":
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise DataError(f"{path}, line {number}: {line!r}, wanted a file name and 0, 1 or 2")
        rows.append((fields[0], int(fields[1])))
    return rows


def _write_list(config: DataConfig, split: str, items: Sequence[Item]) -> list[str]:
    """Write the drawn names where others can cite them; a note, or nothing when it cannot be written."""
    path = config.cache_folder / "lists" / f"celeba-{split}-{len(items)}-seed{config.seed}.txt"
    text = os.fsencode("".join(f"{item.name}\n" for item in items))
    try:
        if not (path.is_file() and path.read_bytes() == text):
            with atomic_write(path) as file:  # several processes may open the faces at once
                file.write(text)
    except OSError as error:
        log.warning("cannot write the list of drawn pictures %s (%s)", path, error)
        return []
    return [f"{split} list: {path}"]


_SCFACE = re.compile(r"\d{3}_cam[1-8](_[1-3])?")


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
