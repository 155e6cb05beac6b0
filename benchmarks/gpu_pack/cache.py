"""Triton's cache: the folders of kernels, and what launches need of them."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

KEPT = (".cubin", ".json")  # machine code and what is known of it; the rest is the way there
GROUP = "__grp__"  # begins the name of a kernel's list of files


def folder_of(key: str) -> str:
    """The name of a key's folder, as triton.runtime.cache has it."""
    return base64.b32encode(bytes.fromhex(key)).decode().rstrip("=")


def prune(cache: Path, folders: Iterable[str], target: Path) -> int:
    """Copies what launches need of these folders; how many there were. FileNotFoundError for one that is not there.

    The lists of files hold absolute paths; here they hold names, and `rewrite` puts the place in front.
    """
    count = 0
    for source in (cache / name for name in sorted(set(folders))):
        copy = target / source.name
        copy.mkdir(parents=True)
        for path in (path for path in source.iterdir() if path.suffix in KEPT):
            if path.name.startswith(GROUP):
                names = [name for name in json.loads(path.read_text())["child_paths"] if Path(name).suffix in KEPT]
                (copy / path.name).write_text(json.dumps({"child_paths": {name: name for name in names}}))
            else:
                shutil.copyfile(path, copy / path.name)
        count += 1
    return count


def rewrite(cache: Path) -> None:
    """Lists of files that hold the cache's place, wherever it was before."""
    for path in cache.glob(f"*/{GROUP}*.json"):
        names = json.loads(path.read_text())["child_paths"]
        path.write_text(json.dumps({"child_paths": {name: str(path.parent / name) for name in names}}))
