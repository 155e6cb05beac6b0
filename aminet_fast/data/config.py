"""What faces to open, and how."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Layout = Literal["auto", "folder", "celeba", "helen", "scface", "paired", "drawn"]
Split = Literal["train", "val", "test", "all"]
SPLITS: tuple[Split, ...] = get_args(Split)


class DataError(ValueError):
    """No usable faces where they were looked for, or settings that do not fit them."""


@dataclass
class DataConfig:
    """Faces and how they are prepared.

    Args:
        root: folder of pictures; None: the embedded drawn faces.
        layout: how the folder is laid out; auto looks.
        crop: side of the centre crop before the resize; None: the middle square (178 for CelebA's 178x218).
        size: side of the HR face in pixels.
        scale: HR side / LR side.
        cache: folder of the decoded faces; None: aminet_fast in the user's cache folder.
        limit: at most this many pictures of a split, drawn by `seed`.
        drawn: how many drawn training faces (validation and test have a sixteenth of it each, at least 64).
        val_limit: the same as limit, for the validation split alone.
        seed: of every draw: limit, CelebA's subset, the drawn faces.
        subset: CelebA: paper draws 18,000 train and 1,000 test pictures, official takes the whole partition.
    """

    root: str | None = None
    layout: Layout = "auto"
    crop: int | None = None
    size: int = 128
    scale: int = 8
    cache: str | None = None
    limit: int | None = None
    drawn: int = 4096
    val_limit: int | None = None
    seed: int = 0
    subset: Literal["paper", "official"] = "paper"

    def __post_init__(self) -> None:
        if self.layout not in get_args(Layout):
            raise DataError(f"layout is {self.layout!r}, wanted one of {', '.join(get_args(Layout))}")
        if self.subset not in ("paper", "official"):
            raise DataError(f"subset is {self.subset!r}, wanted paper or official")
        for name in ("crop", "size", "scale", "limit", "drawn", "val_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"{name} is {value}, wanted at least 1")
        if self.seed < 0:
            raise DataError(f"seed is {self.seed}, wanted 0 or more")
        if self.size % self.scale:
            raise DataError(f"size {self.size} does not divide by scale {self.scale}")

    @property
    def lr_size(self) -> int:
        return self.size // self.scale

    @property
    def cache_folder(self) -> Path:
        return Path(self.cache).expanduser() if self.cache else user_cache() / "aminet_fast"


def user_cache() -> Path:
    """The user's cache folder: XDG_CACHE_HOME, LOCALAPPDATA on Windows, Library/Caches on macOS, ~/.cache."""
    path = os.environ.get("XDG_CACHE_HOME") or (os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None)
    if path:
        return Path(path)
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
