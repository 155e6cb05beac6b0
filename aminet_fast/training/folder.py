"""The run folder: where things lie in it, and writing them so that a crash leaves old or new, never half."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

from .._atomic import atomic_write, make_writable


class RunFolder:
    """Paths of a run.

    ``config.yaml``, ``metrics.csv``, ``log.txt``, ``checkpoints/step-00001000.pt``,
    ``panels/step-00001000.png``, ``best/`` and ``last/`` (pretrained folders), and ``nan-step-00001000/``
    after a divergence.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.metrics = root / "metrics.csv"
        self.log = root / "log.txt"
        self.checkpoints = root / "checkpoints"
        self.panels = root / "panels"
        self.best = root / "best"
        self.last = root / "last"
        self._lock: IO[str] | None = None

    def prepare(self) -> None:
        """Make the folders and try a write; raises OSError with the folder's name when that fails."""
        for folder in (self.root, self.checkpoints, self.panels):
            make_writable(folder, "the run folder")
        self._take()
        self._clear_leftovers()

    def _take(self) -> None:
        """Keep other processes out until `release`, or until this one ends in whatever way.

        Two runs in one folder would remove each other's unfinished files, and mix their rows.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._lock = (self.root / ".lock").open("w")
        try:
            # Of the process, not of the open file: loader processes that outlive a killed run hold nothing.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise OSError(
                    f"another process is training in {self.root}; wait for its end, or choose another with --out"
                ) from error
            # else this file system has no locks

    def release(self) -> None:
        """Let other processes in again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _clear_leftovers(self) -> None:
        """After a kill: finish a folder swap that was cut between its renames, and drop unfinished files."""
        for folder in (self.best, self.last):
            old = _old(folder)
            if old.exists() and not folder.exists():
                old.rename(folder)
        for parent in (self.root, self.checkpoints, self.panels):
            for leftover in parent.glob(".tmp-*"):
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for folder in (self.best, self.last):
            shutil.rmtree(_old(folder), ignore_errors=True)


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, and rename it to ``path`` once it is on the disk.

    Raises whatever ``write`` or the file system raises (OSError on a full disk); ``path`` is then as it was.
    """
    with atomic_write(path) as file:
        write(file)
    _sync(path.parent)


def write_folder(path: Path, write: Callable[[Path], object]) -> None:
    """As `write_file`, for a folder; after a crash between the renames `prepare` puts the old one back."""
    fresh = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        write(fresh)
        for file in [*fresh.rglob("*"), fresh]:
            _sync(file)
        fresh.chmod(0o777 & ~_umask())
        old = _old(path)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            path.rename(old)
        fresh.rename(path)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        if _old(path).exists() and not path.exists():
            _old(path).rename(path)
        raise
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    """fsync a file or a folder: a rename is durable only once its folder is."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
