"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_write(path: str | Path) -> Iterator[BinaryIO]:
    """Opens a temporary file beside `path` for writing and renames it onto `path` when the block ends well.

    The contents are on disk (fsync) before the rename, so a reader or a crash sees the old file or the new
    one. When the block raises, the temporary file is removed and `path` is as it was. Missing parent
    folders are made.

    Args:
        path: the file to write.

    Yields:
        A binary file open for writing and seeking.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    with atomic_writes(path) as files:
        yield files[0]


@contextmanager
def atomic_writes(*paths: str | Path) -> Iterator[list[BinaryIO]]:
    """As `atomic_write` for files that belong together: they are renamed in this order, when all are on disk."""
    targets = [Path(path) for path in paths]
    temporary: list[str] = []
    try:
        with ExitStack() as stack:
            files: list[BinaryIO] = []
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=target.suffix, dir=target.parent)
                temporary.append(name)
                files.append(stack.enter_context(os.fdopen(handle, "w+b")))
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for name, target in zip(temporary, targets, strict=True):
            if target.is_dir():  # before another of them is replaced
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
            os.chmod(name, _mode(target))
        for name, target in zip(temporary, targets, strict=True):
            os.replace(name, target)
    except BaseException:
        for name in temporary:
            Path(name).unlink(missing_ok=True)
        raise


def make_writable(folder: str | Path, what: str, option: str = "--out") -> None:
    """Make a folder and its parents, and try a write in it, before hours of work that are to end there.

    Raises OSError when that fails, naming the folder, the reason, and the option that chooses another.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
    except OSError as error:
        raise OSError(
            f"cannot write {what} {folder}: {error.strerror or error}; choose another with {option}"
        ) from error


def _mode(target: Path) -> int:
    """The permissions of the file being replaced, or those the umask gives a new one (mkstemp's are 0600)."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
