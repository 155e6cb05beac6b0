"""The checkpoints of a run folder: writing them, and finding the newest that is whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...network.checkpoint import FORMAT, VERSION, CheckpointError, NewerCheckpointError, read_checkpoint
from .folder import write_torch

_NAME = re.compile(r"step-(\d{8,})\.pt")


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def step_of(path: Path) -> int:
    """The step in a checkpoint's name; raises ValueError when it is not named as one."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"{path} is not named as a checkpoint")
    return int(match.group(1))


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest step first."""
    return sorted((path for path in folder.glob("step-*.pt") if _NAME.fullmatch(path.name)), key=step_of)


def save_checkpoint(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write ``state`` (plain values and tensors, with its "step"); drop all checkpoints but the newest ``keep``.

    Raises:
        OSError: the disk is full or not writable; the checkpoints that were there are untouched.
    """
    path = checkpoint_path(folder, state["step"])
    write_torch(path, {"format": FORMAT, "version": VERSION, **state})
    for old in list_checkpoints(folder)[:-keep]:
        if old != path:
            old.unlink(missing_ok=True)
    return path


def newest_checkpoint(
    folder: Path, warn: Callable[[str], None], needs: Iterable[str] = ()
) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint in a folder, or None when there is no file at all.

    Raises:
        CheckpointError: there are files and none of them is whole, or the newest is of a newer format.
    """
    paths = list_checkpoints(folder)
    problem: CheckpointError | None = None
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path, needs)
        except NewerCheckpointError:
            raise
        except CheckpointError as error:
            problem = error
            warn(f"skipped a checkpoint: {error}")
    if problem is not None:
        raise CheckpointError(f"no whole checkpoint in {folder}; the oldest: {problem}") from problem
    return None
