"""Opening faces: the data set a training loop or an evaluation reads."""

from __future__ import annotations

import functools
import hashlib
import logging
import operator
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress
from torch.utils.data import Dataset

from ..output.console import make_console
from ..output.listing import first_few
from .augment import Augment
from .augment import augment as augment_image
from .cache import Entry, FaceStore, build_store, cache_key, load_store
from .config import SPLITS, DataConfig, DataError, Split
from .decode import decode
from .degradation import degrade, enlarge
from .drawn import DRAWN_VERSION
from .drawn.processes import drawing
from .formats import in_words, pictures_among
from .images import ImageError, to_tensor
from .listing import Item, Listing, draw
from .sources import list_faces

log = logging.getLogger(__name__)

_CHUNK = 128  # items decoded ahead, so that a large set streams
_MANY = 128  # drawn faces that are worth the start of processes


class FaceDataset(Dataset[dict[str, object]]):
    """Faces by index, from a `FaceStore`.

    `ds[i]` or `ds[(i, item_seed)]` gives {"input": float32 [3, S, S], "hr": float32 [3, S, S],
    "lr": float32 [3, S/scale, S/scale], "name": str}, tensors in [-1, 1]; without HR no "hr".
    With `augment` "full" a picture is flipped and cropped, with "pose" flipped, turned, scaled and shifted, with "flip"
    only flipped, by item_seed alone; a plain index takes the seed from torch's generator, which a DataLoader seeds in
    every worker. Given pairs are flipped and nothing else.

    `names` are paths relative to the root. Raises IndexError for an index out of range.
    """

    def __init__(self, store: FaceStore, *, scale: int = 8, augment: bool | Augment = "none") -> None:
        self.store, self.scale = store, scale
        if isinstance(augment, bool):
            augment = "full" if augment else "none"
        self.augment: Augment = augment
        self.names = store.meta.names

    @property
    def fingerprint(self) -> str:
        """64 hex digits for names, order, pixels and scale; copying or touching the files changes nothing."""
        return hashlib.sha256(f"{self.store.meta.content} {self.scale}".encode()).hexdigest()

    @property
    def has_hr(self) -> bool:
        return "hr" in self.store.meta.parts

    @property
    def bad(self) -> list[tuple[str, str]]:
        """Files that were skipped, and why."""
        return self.store.meta.bad

    @property
    def enlarged(self) -> int:
        """How many sources were smaller than the HR side and had to be enlarged."""
        return self.store.meta.enlarged

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, object]:
        raw, seed = key if isinstance(key, tuple) else (key, None)
        index = operator.index(raw)
        if not -len(self) <= index < len(self):
            raise IndexError(f"face {index} of a set of {len(self)}")
        if self.augment != "none" and seed is None:
            seed = int(torch.randint(2**62, ()).item())
        hr, lr = self._picture("hr", index), self._picture("lr", index)
        if self.augment != "none" and seed is not None:
            how = self.augment if lr is None else "flip"
            hr = hr and augment_image(hr, int(seed), how)
            lr = lr and augment_image(lr, int(seed), how)
        if lr is None:
            assert hr is not None, "a store has at least one part"
            lr, up = degrade(hr, self.scale)
        else:
            up = enlarge(lr, self.scale)
        item: dict[str, object] = {"input": to_tensor(up), "lr": to_tensor(lr), "name": self.names[index]}
        if hr is not None:
            item["hr"] = to_tensor(hr)
        return item

    def _picture(self, part: str, index: int) -> Image.Image | None:
        array = self.store.part(part)
        return None if array is None else Image.fromarray(array[index])


def open_faces(config: DataConfig, split: Split = "train", augment: bool | Augment = "none") -> FaceDataset:
    """Find, decode (once; then from the cache) and open one split of the faces `config` describes.

    Bad files are skipped with one warning that counts them and names the first few. Raises DataError when the
    split does not exist or nothing usable is left, saying what was looked for and where.
    """
    if split not in SPLITS:
        raise DataError(f"split is {split!r}, wanted one of {', '.join(SPLITS)}")
    listing = list_faces(config)
    items = select(listing, config, split)
    for doubt in doubts(listing):
        _warn_once(doubt)
    key = cache_key(_settings(config), [_identity(item) for item in items])
    folder = config.cache_folder / "faces"
    store = load_store(folder, key)
    if store is None:
        store = build_store(folder, key, partial(_entries, items, config, split), len(items))
    warn_bad(store.meta.bad, len(items), listing.where)
    if not store.meta.names:
        raise DataError(f"none of the {len(items)} pictures of {split} in {listing.where} is usable")
    if store.meta.enlarged:
        log.warning(
            "%d of %d %s faces in %s are smaller than %dx%d after the crop and were enlarged",
            store.meta.enlarged, len(store.meta.names), split, listing.where, config.size, config.size,
        )  # fmt: skip
    return FaceDataset(store, scale=config.scale, augment=augment)


def select(listing: Listing, config: DataConfig, split: Split) -> list[Item]:
    """The items of `split` after `limit` or `val_limit`. Raises DataError when there is no such split."""
    if not listing.splits.get(split):
        have = ", ".join(name for name, items in listing.splits.items() if items) or "none"
        raise DataError(
            f"{listing.where} (layout {listing.layout}) has no {split} split; it has: {have}. "
            'Use split "all" for every picture, or put the pictures in folders train, val and test'
        )
    limit = config.val_limit if split == "val" and config.val_limit is not None else config.limit
    return draw(listing.splits[split], limit, config.seed)


def _settings(config: DataConfig) -> dict[str, object]:
    return {"crop": config.crop, "size": config.size, "scale": config.scale}


def _identity(item: Item) -> tuple[object, ...]:
    """What tells that a cached face is still this one: its seed and who draws it, or its files' places, sizes, times.

    Size and time stand for the content: hashing it would read the whole set at every start. That a file may be read
    has to be told too: a change of its permissions leaves both as they are.
    """
    if item.seed is not None:
        return item.name, item.seed, DRAWN_VERSION, Image.__version__, np.__version__
    stats: list[object] = []
    for path in (item.hr, item.lr):
        if path is None:
            stats.append(None)
            continue
        try:
            stat = path.stat()
            stats.append((os.path.abspath(path), stat.st_size, stat.st_mtime_ns, os.access(path, os.R_OK)))
        except OSError:
            stats.append("unreadable")
    return item.name, item.box, *stats


def _entries(items: Sequence[Item], config: DataConfig, split: str) -> Iterator[Entry]:
    """Decode in order in a few threads (Pillow frees the interpreter meanwhile), a chunk at a time.

    Drawing does not free it: many drawn faces are drawn in processes, one for each thread.
    """
    workers = _workers()
    drawn = sum(item.seed is not None for item in items)
    processes = workers if workers > 1 and drawn >= _MANY else 0
    with drawing(processes) as draw, ThreadPoolExecutor(workers) as pool:
        chunks = (items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK))
        entries = (entry for chunk in chunks for entry in pool.map(partial(_entry, config, draw), chunk))
        yield from _with_progress(entries, len(items), f"preparing {split} faces")


def _workers() -> int:
    """One for each core this process may use, up to 8."""
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _entry(config: DataConfig, draw: Callable[[int, int], Image.Image], item: Item) -> Entry:
    try:
        pixels = decode(item, config, draw)
    except ImageError as error:
        return Entry(item.name, {}, error.reason)
    parts = {name: array for name, array in (("hr", pixels.hr), ("lr", pixels.lr)) if array is not None}
    return Entry(item.name, parts, None, pixels.enlarged)


def _with_progress(entries: Iterable[Entry], total: int, what: str) -> Iterator[Entry]:
    """Pass `entries` through; after a second and a half a progress bar says how far they are, on a terminal."""
    start = time.monotonic()
    console = make_console(stderr=True)
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=total)
    shown = False
    try:
        for entry in entries:
            if not shown and time.monotonic() - start > 1.5:
                bar.start()
                shown = True
            bar.advance(task)
            yield entry
    finally:
        if shown:
            bar.stop()


def doubts(listing: Listing) -> list[str]:
    """What makes it doubtful that a listing has all its pictures where they belong, a line each."""
    pictures = in_words(pictures_among(listing.left_out))
    left_out = [f"left out of {listing.where}, as Pillow opens none of them here: {pictures}"] if pictures else []
    return listing.warnings + left_out


@functools.cache
def _warn_once(text: str) -> None:
    """The splits of a set are opened one by one, and have these in common."""
    log.warning("%s", text)


def warn_bad(bad: Sequence[tuple[str, str]], total: int, where: str) -> None:
    """One warning for all bad files: how many of how many, and the first few with their reasons."""
    if bad:
        named = first_few([f"{name} {reason}" for name, reason in bad], "; ")
        log.warning("skipped %d of %d files in %s: %s", len(bad), total, where, named)
