"""CelebA as it is downloaded: any edition of its pictures, and the official partition."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..output.atomic import atomic_write
from .config import DataConfig, DataError
from .formats import counts, ending_of, suffixes
from .images import find_images
from .listing import Item, Listing, draw

log = logging.getLogger(__name__)

CELEBA_TRAIN, CELEBA_TEST = 18_000, 1_000
# What the archives unpack to, the aligned ones first; img_celeba has whole photographs.
FOLDERS = ("img_align_celeba", "img_align_celeba_png", "img_celeba")
_AROUND = ("img", "images", "archive", "data")  # and celeba, CelebA, celeba-dataset, ...: folders that these lie in
_LIST = "list_eval_partition"
_DEPTH = 4


def list_celeba(root: Path, config: DataConfig) -> Listing | None:
    """CelebA's pictures by the official partition (0 train, 1 val, 2 test).

    Names are matched without their ending: the list names .jpg files, and the PNG edition goes by it too. With subset
    "paper", 18,000 train and 1,000 val and test pictures each are drawn by `config.seed` and the lists are written into
    the cache folder; "official" keeps whole partitions. "all" is every listed picture.
    """
    where, root = str(root), _whole(root)
    folder = _known_folder(root)
    partition = _partition_near(folder, root) if folder else _partition_in(root)
    if partition is None:
        return None
    rows = _read_partition(partition)
    if folder is None:
        folder = _folder_by_names(root, rows)
        if folder is None:
            return None
    pictures = _pictures(folder)
    files = _by_listed_name(folder, pictures, rows)
    if not files:
        raise DataError(f"none of the pictures of {partition} is in {folder}; unpack CelebA's pictures there")
    splits: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
    for name, number in rows:
        if name in files:
            splits[("train", "val", "test")[number]].append(Item(name, hr=files[name]))
    everything = sorted((item for part in splits.values() for item in part), key=lambda item: item.name)
    notes = [f"partition from {partition}"]
    if config.subset == "paper":
        for split, count in (("train", CELEBA_TRAIN), ("val", CELEBA_TEST), ("test", CELEBA_TEST)):
            splits[split] = draw(splits[split], count, config.seed)  # by listed names: the same faces of each edition
            notes += _write_list(config, split, splits[split])
    doubts = _doubts(partition, folder, len(rows) - len(files), len(pictures) - len(set(files.values())))
    named = {split: _by_file(items) for split, items in splits.items()}
    return Listing("celeba", where, {**named, "all": _by_file(everything)}, notes, doubts)


def unused_partition(root: Path) -> str | None:
    """What to tell of a folder that was taken for no CelebA though it looks like one, or None."""
    root = _whole(root)
    folder = _known_folder(root)
    partition = _partition_near(folder, root) if folder else _partition_in(root)
    if partition is not None:
        return f"{partition} was found and not used: it names few of the pictures in {root}"
    if folder is None and (partition := _partition_in(root.parent)) and _names_most(partition, root):
        return (
            f"{partition} was found and not used, though it names most of the pictures in {root}: official test faces "
            f"may be among those to train on; move it into {root}, or give layout folder if these are no CelebA faces"
        )
    if folder is not None:
        return (
            f"{folder} is CelebA's, and its {_LIST}.txt is not here: official test faces may be among those to train "
            "on; put the list beside the folder"
        )
    return None


def _doubts(partition: Path, folder: Path, missing: int, others: int) -> list[str]:
    """What of the list is not in the folder and the other way about."""
    doubts = []
    if missing:
        doubts.append(f"{missing} of the pictures that {partition} lists are not in {folder}")
    if others:
        doubts.append(f"{others} pictures in {folder} are not listed in {partition} and were left out")
    if folder.name.lower() == "img_celeba":
        doubts.append(f"{folder} has whole photographs, no aligned faces; img_align_celeba has those")
    return doubts


def _names_most(partition: Path, root: Path) -> bool:
    """Whether a list above `root`, which need not be meant for it, names what is there; a spoilt one names nothing."""
    try:
        return _folder_by_names(root, _read_partition(partition)) is not None
    except DataError:
        return False


def _whole(root: Path) -> Path:
    """`root` with the names of all folders above it, by which CelebA's are known; a link keeps its own name."""
    return root.resolve() if ".." in root.parts else root.absolute()


def _known_folder(root: Path) -> Path | None:
    """The folder of pictures under `root`, or `root` itself, by the name it was unpacked to; the aligned ones first.

    Archives nest it in one of the same name, and Google Drive's folder keeps it in Img/.
    """
    found = [p for p in (root, *_folders(root, _DEPTH)) if p.name.lower() in FOLDERS and _has_numbers(p)]
    return min(found, key=lambda p: FOLDERS.index(p.name.lower()), default=None)


def _folders(root: Path, depth: int) -> Iterator[Path]:
    """Folders in which CelebA may lie; no others, of which there may be very many."""
    for path in sorted(root.iterdir()) if depth else ():
        name = path.name.lower()
        if (name in FOLDERS or name in _AROUND or name.startswith("celeba")) and path.is_dir():
            yield path
            yield from _folders(path, 1 if name in FOLDERS else depth - 1)


def _has_numbers(folder: Path) -> bool:
    return any(path.suffix and path.is_file() for path in folder.glob("[0-9]*.*"))


def _partition_near(folder: Path, root: Path) -> Path | None:
    """The list in the folder, beside it or above it, up to two folders above `root`."""
    highest = len(root.parts) - 2
    places = [folder, *(p for p in folder.parents if len(p.parts) >= highest)]
    return next((found for place in places if (found := _partition_in(place))), None)


def _partition_in(folder: Path) -> Path | None:
    """The list in a folder or its Eval/; browsers and Kaggle change its name a little."""
    for place in (folder, folder / "Eval"):
        lists = [p for ending in ("txt", "csv") for p in sorted(place.glob(f"{_LIST}*.{ending}")) if p.is_file()]
        if lists:
            return lists[0]
    return None


def _folder_by_names(root: Path, rows: Sequence[tuple[str, int]]) -> Path | None:
    """Where most of the pictures lie that a list in `root` names, when it names most of the pictures there."""
    stems = {Path(name).stem for name, _ in rows}
    pictures = find_images(root)
    listed: dict[Path, int] = {}
    for path in pictures:
        listed[path.parent] = listed.get(path.parent, 0) + (path.stem in stems)
    best = max(listed, key=lambda folder: listed[folder], default=None)
    return best if best is not None and 2 * sum(listed.values()) > len(pictures) else None


def _pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder, of which there are 202,599: no look at each."""
    endings = suffixes()
    return sorted(name for name in os.listdir(folder) if counts(name) and ending_of(name) in endings)


def _by_listed_name(folder: Path, pictures: Sequence[str], rows: Sequence[tuple[str, int]]) -> dict[str, Path]:
    """The file of each listed name: that of the very name, or else one that differs by its ending alone."""
    names, stems = set(pictures), {Path(name).stem: name for name in reversed(pictures)}
    found = {name: name if name in names else stems.get(Path(name).stem) for name, _ in rows}
    return {name: folder / file for name, file in found.items() if file is not None}


def _by_file(items: Sequence[Item]) -> list[Item]:
    """Items that are called what their files are, no longer what the list calls them."""
    return [replace(item, name=item.hr.name) for item in items if item.hr is not None]


def _read_partition(path: Path) -> list[tuple[str, int]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text ({error.reason}); take the list from CelebA's Eval folder") from error
    rows, lines = [], {}  # type: list[tuple[str, int]], dict[str, int]
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.replace(",", " ").replace('"', " ").split()
        if not fields or fields[0] == "image_id":
            continue
        if len(fields) != 2 or fields[1] not in ("0", "1", "2"):
            raise DataError(f"{path}, line {number}: {line!r}, wanted a file name and 0, 1 or 2")
        stem = Path(fields[0]).stem  # by which pictures are found
        if stem in lines:
            raise DataError(f"{path} names picture {stem} twice, on line {lines[stem]} and on line {number}; drop one")
        lines[stem] = number
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
