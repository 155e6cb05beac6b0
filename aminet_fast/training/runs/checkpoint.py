"""Checkpoints: one file with everything a run needs to go on to the very same numbers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from .folder import write_torch

FORMAT, VERSION = "aminet_fast.checkpoint", 1
_NAME = re.compile(r"step-(\d{8,})\.pt")
RUN = {  # what a run needs to go on, and of which type it is
    "step": int, "config": dict, "model_config": dict, "model": dict, "optimizer": dict, "ema": dict | None,
    "rng": list, "faces": str, "world": int, "seconds": float, "best": float, "loss_sum": float, "loss_count": int,
}  # fmt: skip


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


def read_checkpoint(path: Path, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, with nothing but tensors and plain values allowed in it.

    Args:
        path: The file; whatever it holds, nothing in it is executed.
        needs: What has to be in it, among `RUN`.

    Raises:
        FileNotFoundError: no such file.
        CheckpointError: cut short, damaged, of a newer format, or no checkpoint of a training run.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    _check_archive(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(_refusal(path, error)) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT or not isinstance(state.get("version"), int):
        raise CheckpointError(f"{path} is no checkpoint of an aminet_fast training run")
    if state["version"] > VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {state['version']}, and this aminet_fast reads up to {VERSION};"
            " upgrade aminet_fast"
        )
    if wrong := [name for name in needs if not isinstance(state.get(name), RUN[name])]:
        raise CheckpointError(f"{path} is no whole checkpoint of a run: no {', '.join(wrong)} of the right kind in it")
    return state


def _check_archive(path: Path) -> None:
    """Raises CheckpointError unless the file is an archive as torch.save writes it, every byte of it as written.

    The zip's checksums find a damaged byte, which torch.load does not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
            damaged = None if packed else archive.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path} is cut short or no checkpoint ({error})") from error
    if packed:  # torch.save packs nothing, and a small file could unpack to any size
        raise CheckpointError(f"{path} is no checkpoint: its contents are compressed")
    if damaged:
        raise CheckpointError(f"{path} is damaged: wrong checksum in {damaged}")


def _refusal(path: Path, error: Exception) -> str:
    """Why torch would not load a file; its own advice is to load it with all code that is in it."""
    called = re.search(r"(?:GLOBAL|global|class|function) ([\w.]+\.\w+)", str(error))
    if called is not None:
        return (
            f"{path} does not load: it would run code ({called.group(1)}), and checkpoints hold none."
            " Nothing in it was executed; get the file from where you trust it"
        )
    return f"{path} does not load ({str(error).splitlines()[0]})"


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
        except CheckpointError as error:
            if "upgrade aminet_fast" in str(error):
                raise
            problem = error
            warn(f"skipped a checkpoint: {error}")
    if problem is not None:
        raise CheckpointError(f"no whole checkpoint in {folder}; the oldest: {problem}") from problem
    return None
