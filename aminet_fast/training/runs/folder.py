"""The run folder: where things lie in it, and writing them so that a crash leaves old or new, never half."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO

import torch

from ...output.atomic import atomic_write, make_writable


class RunFolder:
    """Paths of a run; as a context manager it is released at the end.

    ``config.yaml``, ``runs.jsonl``, ``metrics.csv``, ``log.txt``, ``checkpoints/step-00001000.pt``,
    ``panels/step-00001000.png``, ``best/`` and ``last/`` (pretrained folders), and ``nan-step-00001000/``
    after a divergence.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.metrics = root / "metrics.csv"
        self.log = root / "log.txt"
        self.launcher = root / ".launcher"  # which launch of torchrun fills it
        self.runs = root / "runs.jsonl"
        self.checkpoints = root / "checkpoints"
        self.panels = root / "panels"
        self.best = root / "best"
        self.last = root / "last"
        self._lock: IO[str] | None = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()

    def is_blank(self) -> bool:
        """Whether nothing is in the folder, or what a start left that found the disk full."""
        if not self.root.is_dir():
            return not self.root.exists()
        names = {path.name for path in self.root.iterdir() if not path.name.startswith(".tmp-")}
        ours = {".lock", self.launcher.name, self.log.name, self.checkpoints.name, self.panels.name}
        empty = all(not any(path.iterdir()) for path in (self.checkpoints, self.panels) if path.is_dir())
        return not names or (".lock" in names and names <= ours and empty)

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


def write_torch(path: Path, value: object) -> None:
    """`torch.save` by `write_file`. Raises OSError on a full disk, for which torch's zip writer has another error."""
    try:
        write_file(path, lambda file: torch.save(value, file))
    except RuntimeError as error:
        cause = error.__cause__ or error.__context__
        if isinstance(cause, OSError):
            raise cause from error
        if "PytorchStreamWriter" in str(error) or "unexpected pos" in str(error):
            raise OSError(f"writing {path.name} failed ({str(error).splitlines()[0]}); is the disk full?") from error
        raise


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
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # some network disks do not know it
            raise
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
