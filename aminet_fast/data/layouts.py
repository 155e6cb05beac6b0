"""The public data sets as they are downloaded: CelebA, Helen, SCface, and paired LR/HR folders."""

from __future__ import annotations

from pathlib import Path

from .config import DataConfig
from .sources import Listing, suffix_list

LOOKED_FOR = {"folder": f"pictures ({suffix_list()}), also in subfolders"}


def list_celeba(root: Path, config: DataConfig) -> Listing | None:
    return None


def list_helen(root: Path, config: DataConfig) -> Listing | None:
    return None


def list_scface(root: Path, config: DataConfig) -> Listing | None:
    return None


def list_paired(root: Path, config: DataConfig) -> Listing | None:
    return None
