"""Checkpoints: one file with everything a run needs to go on to the very same numbers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .folder import write_torch

FORMAT, VERSION = "aminet_fast.checkpoint", 1
_NAME = re.compile(r"step-(\d{8,})\.pt")


class CheckpointError(ValueError):
    """A file is no whole checkpoint of this program; the message says what it is instead."""


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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with nothing but tensors and plain values allowed in it.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: cut short, damaged, of a newer format, or no checkpoint of a training run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with zipfile.ZipFile(path) as archive:  # the zip's checksums find a damaged byte, which torch.load does not
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise CheckpointError(f"{path} is cut short or no checkpoint ({error})") from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: wrong checksum in {damaged}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} does not load ({str(error).splitlines()[0]})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of an aminet_fast training run")
    if state["version"] > VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {state['version']}, and this aminet_fast reads up to {VERSION};"
            " upgrade aminet_fast"
        )
    return state


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint in a folder, or None when there is no file at all.

    Raises:
        CheckpointError: there are files and none of them is whole, or the newest is of a newer format.
    """
    paths = list_checkpoints(folder)
    problem: CheckpointError | None = None
    for path in reversed(paths):
        try:
            return path, read_checkpoint(path)
        except CheckpointError as error:
            if "upgrade aminet_fast" in str(error):
                raise
            problem = error
            warn(f"skipped a checkpoint: {error}")
    if problem is not None:
        raise CheckpointError(f"no whole checkpoint in {folder}; the oldest: {problem}") from problem
    return None
