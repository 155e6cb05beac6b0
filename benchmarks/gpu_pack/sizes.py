"""What has to travel to a GPU machine, in MiB."""

from __future__ import annotations

import subprocess
from pathlib import Path

MIB = 2**20
FACES = "faces"  # the folder in the pack's that has the pictures


def bytes_under(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def tree_bytes(root: Path) -> int:
    """Of the files that git knows or does not ignore; -1 where it cannot say."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        return -1
    return sum((root / name).stat().st_size for name in listed if name and (root / name).is_file())


def report(root: Path, pack: Path, most: float) -> str:
    """One line: the pack, the tree, the faces, and all of them of the most that may travel, in MiB."""
    faces = bytes_under(pack / FACES)
    parts = {"pack": bytes_under(pack) - faces, "tree": tree_bytes(root), "faces": faces}
    if parts["tree"] < 0:
        return f"{_line(parts)}; the tree's size is not known without git"
    total = sum(parts.values()) / MIB
    return f"{_line(parts)}: {total:.1f} MiB of {most:g}" + (", TOO MUCH" if total > most else "")


def _line(parts: dict[str, int]) -> str:
    return ", ".join(f"{name} {size / MIB:.1f}" for name, size in parts.items() if size >= 0)
