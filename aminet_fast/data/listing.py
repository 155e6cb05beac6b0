"""Faces before they are decoded, and to which split each belongs: what every finder of a layout is made of."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

VAL_EVERY = 25
_NAMES = {
    "train": ("train", "training", "trainset"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing", "testset"),
}


@dataclass(frozen=True)
class Item:
    """One face before it is decoded: an HR file, an LR file or both, or the seed of a drawn face.

    `box` (left, top, right, bottom) is the face in the HR file where annotations give it.
    """

    name: str
    hr: Path | None = None
    lr: Path | None = None
    box: tuple[float, float, float, float] | None = None
    seed: int | None = None


@dataclass
class Listing:
    """What was recognised: the layout, and the items of each split there is; "all" is always there.

    `notes` are told by `aminet data`, `warnings` wherever the faces are opened, and so are those files of `left_out`
    (counts by ending) that hold pictures which Pillow does not open.
    """

    layout: str
    where: str
    splits: dict[str, list[Item]]
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def split_items(root: Path, items: list[Item]) -> dict[str, list[Item]]:
    """Sort items into splits by the first folder of their names; without such folders by `is_val`."""
    folders = split_folders(root)
    if not folders:
        return rule_splits(items, items)
    tops = {name: split for split, names in folders.items() for name in names}
    parts: dict[str, list[Item]] = {split: [] for split in folders}
    for item in items:
        top = item.name.split("/", 1)[0]
        if "/" in item.name and top in tops:
            parts[tops[top]].append(item)
    parts = {split: part for split, part in parts.items() if part}
    if "train" in parts and "val" not in parts:
        parts |= {k: v for k, v in rule_splits(parts["train"], items).items() if k != "all"}
    return {**parts, "all": items}


def split_folders(root: Path) -> dict[str, list[str]]:
    """The folders named train, val, test (or training, valid, test_a, ...) right under `root`, by split."""
    found: dict[str, list[str]] = {}
    for folder in sorted(p.name for p in root.iterdir() if p.is_dir()):
        for split, names in _NAMES.items():
            if folder.lower() in names or (split == "test" and folder.lower().startswith("test_")):
                found.setdefault(split, []).append(folder)
    return found


def rule_splits(items: list[Item], everything: list[Item]) -> dict[str, list[Item]]:
    parts: dict[str, list[Item]] = {"train": [], "val": []}
    for item in items:
        parts["val" if is_val(item.name) else "train"].append(item)
    parts = {split: part for split, part in parts.items() if part}
    return {**parts, "all": everything}


def is_val(name: str) -> bool:
    """The fixed rule for folders without a split: one picture in 25, by SHA-1 of the file name.

    The ending and a last `_a`, `_b`, ... are left out of the hash, so that variants of one picture stay on
    the same side, and a picture stays on its side when others come or go.
    """
    stem = re.sub(r"_[a-z]$", "", Path(name).stem)
    return int(hashlib.sha1(os.fsencode(stem)).hexdigest(), 16) % VAL_EVERY == 0


def draw(items: Iterable[Item], count: int | None, seed: int) -> list[Item]:
    """`count` items drawn by `seed`, in their old order: those whose SHA-1 of "seed:name" is smallest.

    A hash and no random generator, so that the draw is the same with every version of every library.
    """
    items = list(items)
    if count is None or count >= len(items):
        return items
    ranked = sorted(range(len(items)), key=lambda i: hashlib.sha1(os.fsencode(f"{seed}:{items[i].name}")).digest())
    return [items[i] for i in sorted(ranked[:count])]


def relative_name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
