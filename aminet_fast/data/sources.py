"""Which pictures a folder holds: the layouts that are recognised, in the order in which they are tried."""

from __future__ import annotations

from pathlib import Path

from .celeba import list_celeba, unused_partition
from .config import DataConfig, DataError
from .formats import in_words
from .helen import list_helen
from .images import find_images, look_through
from .layouts import LOOKED_FOR, list_paired, list_scface
from .listing import Item, Listing, relative_name, split_items

_SPLIT_BITS = 34  # room for the seeds of one split of drawn faces


def list_faces(config: DataConfig) -> Listing:
    """Recognise the layout under `config.root` and sort its pictures into splits; nothing is decoded.

    Raises DataError naming what was looked for and where, when nothing fits.
    """
    if config.layout == "drawn" or (config.root is None and config.layout == "auto"):
        return list_drawn(config)
    if config.root is None:
        raise DataError(f"layout {config.layout} needs a root: the folder with the pictures")
    root = Path(config.root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.is_file() else "does not exist"
        raise DataError(f"data root {root} {what}; wanted a folder of pictures")
    finders = {
        "celeba": list_celeba,
        "scface": list_scface,
        "helen": list_helen,
        "paired": list_paired,
        "folder": list_folder,
    }
    names = list(finders) if config.layout == "auto" else [config.layout]
    for name in names:
        listing = finders[name](root, config)
        if listing is not None:
            listing.left_out = look_through(root).left_out
            if config.layout == "auto" and name != "celeba" and (doubt := unused_partition(root)):
                listing.warnings.append(doubt)
            return listing
    looked = LOOKED_FOR[names[0]] if len(names) == 1 else LOOKED_FOR["folder"]
    have = in_words(look_through(root).left_out)
    raise DataError(f"no faces under {root}: looked for {looked}{f', found {have}' if have else ''}")


def list_drawn(config: DataConfig) -> Listing:
    """The seeds of each split of drawn faces; those of two splits, or of two `config.seed`, never meet."""
    few = max(64, config.drawn // 16)
    splits: dict[str, list[Item]] = {}
    for number, (split, count) in enumerate((("train", config.drawn), ("val", few), ("test", few))):
        first = (config.seed * 3 + number) << _SPLIT_BITS
        splits[split] = [Item(f"drawn_{split}_{i:05d}.png", seed=first + i) for i in range(count)]
    everything = [item for part in splits.values() for item in part]
    return Listing("drawn", "the drawn faces", {**splits, "all": everything})


def list_folder(root: Path, config: DataConfig) -> Listing | None:
    """Any folder of pictures: by its train, val and test folders when it has some, else by `is_val`."""
    items = [Item(relative_name(path, root), hr=path) for path in find_images(root)]
    return Listing("folder", str(root), split_items(root, items)) if items else None
