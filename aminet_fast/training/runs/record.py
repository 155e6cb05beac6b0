"""config.yaml and runs.jsonl: a run's recipe and, a line for each start, what it ran on, so that it can be repeated."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...data import DataConfig, FaceDataset
from ...ops import extension as _extension
from ..config import TrainConfig
from ..environment import numeric_variables
from .folder import RunFolder, write_file
from .logs import Lines

PACKAGES = ("torch", "numpy", "pillow", "accelerate", "torchmetrics", "safetensors", "triton")
SCRATCH = "scratch"


def record(
    config: TrainConfig,
    folder: RunFolder,
    warn: Callable[[str], None],
    *,
    device: torch.device,
    processes: int,
    faces: FaceDataset,
    held_out: FaceDataset | None,
    start: dict[str, Any] | None,
) -> None:
    """Write config.yaml and runs.jsonl; say in one line what is not as recorded.

    Args:
        config: The run's.
        folder: Where to write; raises OSError naming it when that fails.
        warn: What takes the line.
        device: Where the run trains, on each of its ``processes``.
        processes: How many there are.
        faces: The training faces.
        held_out: The validation faces, if there are any.
        start: The checkpoint that the run goes on from.
    """
    ran_on = environment(config, device, processes, faces, held_out)
    before = _recorded_before(config, folder)
    if config.resume == "auto" and "started from" in before and start is not None:
        ran_on["started from"] = before["started from"]
    if differing := changed(before, ran_on):
        warn(f"not as recorded: {differing}; the numbers may not be the same in every digit")
    step = start["step"] if start is not None else 0
    complete = step >= config.total_steps(len(faces), processes)
    # Whoever runs from config.yaml goes on with this run, however this one was started.
    again = dataclasses.replace(config, resume="auto", recorded=before if complete else ran_on)
    try:
        write_file(folder.config, lambda file: file.write(again.to_yaml().encode()))
        if not complete:
            _record_start(folder.runs, config, ran_on, step, faces, held_out)
    except OSError as error:
        raise OSError(f"cannot write the run folder {folder.root}: {error.strerror or error}") from error


def environment(
    config: TrainConfig, device: torch.device, processes: int, faces: FaceDataset, held_out: FaceDataset | None
) -> dict[str, Any]:
    """What a run's numbers hang on beside its options: the same everywhere here, the same numbers in every bit.

    Versions, the commit of the source tree with a digest of what was changed in it, processor, GPU and threads, what
    runs the operators, the libraries' variables that change numbers, and the digests of the faces. Plain values, as
    YAML and JSON hold them.
    """
    compiled, _ = _extension.load("_C")
    return {
        "aminet_fast": __version__,
        "source": source_state(),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "operators": config.backend or os.environ.get("AMINET_FAST_BACKEND") or "auto",
        "variables": numeric_variables(),
        "cpu kernels": compiled.cpu_capability() if compiled is not None else None,
        "training faces": faces.fingerprint,
        "validation faces": held_out.fingerprint if held_out is not None else None,
        "started from": os.path.abspath(config.resume) if config.names_checkpoint else SCRATCH,
    }


def _record_start(
    path: Path, config: TrainConfig, ran_on: dict[str, Any], step: int, faces: FaceDataset, held_out: FaceDataset | None
) -> None:
    """Append a start to runs.jsonl; raises OSError when that cannot be written."""
    sets = {"train": _describe(config.data, faces)}
    if held_out is not None:
        sets["val"] = _describe(config.val or config.data, held_out)
    entry = {
        "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "step": step,
        "command": sys.orig_argv,
        "directory": os.getcwd(),
        "host": platform.node(),
        "platform": platform.platform(),
        "seed": config.seed,
        "faces": sets,
        "environment": ran_on,
    }
    lines = Lines(path)
    lines.write(json.dumps(entry))
    lines.flush(sync=True)


def _recorded_before(config: TrainConfig, folder: RunFolder) -> dict[str, Any]:
    """The environment to compare with: of the run's last start, else of the run whose config.yaml this one repeats.

    For a start from a named checkpoint, of the run which that belongs to.
    """
    if config.names_checkpoint:
        before = last_environment(Path(config.resume).parent.parent / folder.runs.name) or {}
        return {name: value for name, value in before.items() if name != "started from"}
    return last_environment(folder.runs) or config.recorded or {}


def last_environment(path: Path) -> dict[str, Any] | None:
    """The environment of the last start in a runs.jsonl, or None; a line that a kill cut short is passed over."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return dict(json.loads(line)["environment"])
        except (ValueError, KeyError, TypeError):
            continue
    return None


def changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two environments, as "torch 2.13.0 -> 2.14.1, threads 2 -> 1"; empty when nothing does."""
    names = [name for name in now if name in before and before[name] != now[name]]
    return ", ".join(f"{name} {_short(before[name])} -> {_short(now[name])}" for name in names)


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a digest


def _describe(config: DataConfig, faces: FaceDataset) -> dict[str, Any]:
    root = os.path.abspath(os.path.expanduser(config.root)) if config.root else None
    return {"root": root, "count": len(faces), "skipped": len(faces.bad), "fingerprint": faces.fingerprint}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


@functools.cache  # what runs is what was imported, whatever becomes of the files
def source_state(package: Path = Path(__file__).parents[2]) -> str | None:
    """The commit that the package's files are at, with "+" and a digest of the changes where there are any.

    None for an installed package, also one inside somebody else's repository, and where there is no git.
    """
    try:
        _git(package, "ls-files", "--error-unmatch", "__init__.py")
        commit = _git(package, "rev-parse", "HEAD").decode().strip()
        changes = _git(package, "diff", "HEAD", "--binary", "--no-ext-diff")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit if not changes else f"{commit}+{hashlib.sha256(changes).hexdigest()[:12]}"


def _git(folder: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=20, stdin=subprocess.DEVNULL).stdout
