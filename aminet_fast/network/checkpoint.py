"""Reading the checkpoints of training runs: one file with everything a run needs to go on to the very same numbers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .state_dicts import networks_in

FORMAT, VERSION = "aminet_fast.checkpoint", 1
# How torch.save began a file before PyTorch 1.6: a pickled torch.serialization.MAGIC_NUMBER.
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa85019")
RUN = {  # what a run needs to go on, and of which type it is
    "step": int, "config": dict, "model_config": dict, "model": dict, "optimizer": dict, "ema": dict | None,
    "rng": list, "faces": str, "world": int, "seconds": float, "best": float, "loss_sum": float, "loss_count": int,
}  # fmt: skip


class CheckpointError(ValueError):
    """A file is no whole checkpoint of this program; the message says what it is instead."""


class NewerCheckpointError(CheckpointError):
    """A checkpoint of a later format than this program reads."""


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
    state = read_archive(path)
    if not is_checkpoint(state):
        weights = "; it holds weights alone: begin a new run with them by --start_from" if networks_in(state) else ""
        raise CheckpointError(f"{path} is no checkpoint of an aminet_fast training run{weights}")
    return check_checkpoint(path, state, needs)


def is_checkpoint(state: object) -> bool:
    """Whether what a file held is a training run's checkpoint, of whatever version."""
    return isinstance(state, dict) and state.get("format") == FORMAT and isinstance(state.get("version"), int)


def check_checkpoint(path: Path, state: dict[str, Any], needs: Iterable[str]) -> dict[str, Any]:
    """`state`, when it is of a version that this program reads and has what is needed; raises CheckpointError."""
    if state["version"] > VERSION:
        raise NewerCheckpointError(
            f"{path} has checkpoint format {state['version']}, and this aminet_fast reads up to {VERSION};"
            " upgrade aminet_fast"
        )
    if wrong := [name for name in needs if not isinstance(state.get(name), RUN[name])]:
        raise CheckpointError(f"{path} is no whole checkpoint of a run: no {', '.join(wrong)} of the right kind in it")
    return state


def read_archive(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU, with nothing but tensors and plain values allowed in it.

    Raises FileNotFoundError, and CheckpointError: empty, cut short, damaged, with code in it, or of another program.
    """
    with path.open("rb") as file:  # opened once: a run that goes on may delete or replace it meanwhile
        begins = file.read(len(_LEGACY))
        if not begins:
            raise CheckpointError(f"{path} is cut short or no checkpoint (it is empty); copy or download it again")
        if begins != _LEGACY:
            _check_archive(path, file)
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise CheckpointError(_refusal(path, error)) from error


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Raises CheckpointError unless the file is an archive as torch.save writes it, every byte of it as written.

    The zip's checksums find a damaged byte, which torch.load does not.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if any(name.endswith("/constants.pkl") for name in names):
                raise CheckpointError(f"{path} is no checkpoint: it is a TorchScript program, for torch.jit.load")
            if not any(name.endswith("data.pkl") for name in names):
                raise CheckpointError(f"{path} is no checkpoint: torch.save did not write this archive")
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
        remedy = "get the file from where you trust it"
        if called.group(1).startswith(("aminet_fast.", "torch.nn.")):  # torch.save(model)
            remedy = "a network of your own becomes weights by torch.load(FILE, weights_only=False).save_pretrained"
        return (
            f"{path} does not load: it would run code ({called.group(1)}), and checkpoints hold none."
            f" Nothing in it was executed; {remedy}"
        )
    return f"{path} does not load ({str(error).splitlines()[0]})"
