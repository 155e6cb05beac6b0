"""What a run starts from: nothing, given weights, or a checkpoint that fits, also when torchrun has restarted it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...network.checkpoint import RUN, read_checkpoint
from ...network.expects import Expects, check_scale, check_served
from ...network.model import AMINet, load_model
from ...reference.options_file import read_options
from ..accelerator import restarts
from ..config import TrainConfig, differences
from .checkpoint import list_checkpoints, newest_checkpoint, step_of
from .folder import RunFolder


def resumed(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """``config``, with "auto" in place of another ``resume`` when a restart finds the run that its launch began.

    The command line is the same each time, and says where the first start was to begin, or that there be no run yet.
    """
    begun = list_checkpoints(folder.checkpoints) if config.names_checkpoint else folder.config.is_file()
    if restarts() and begun and _read(folder.launcher) == _launch():
        return dataclasses.replace(config, resume="auto")
    return config


def mark(folder: RunFolder) -> None:
    """Write down which launch fills the run folder."""
    folder.launcher.write_text(_launch()) if _launch() else folder.launcher.unlink(missing_ok=True)


def find_start(config: TrainConfig, folder: RunFolder, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a new run.

    Raises:
        ValueError: the run folder holds another run, or something else; the checkpoint does not fit the configuration.
            The message names the differing fields and the remedy.
        FileNotFoundError, CheckpointError: the checkpoint that ``config.resume`` names is not there, or not whole.
    """
    if config.names_checkpoint:
        path = Path(config.resume)
        state = read_checkpoint(path, RUN)
        if folder.checkpoints.resolve() != path.resolve().parent:
            _require_empty(folder, "starting from a checkpoint elsewhere needs a new run folder")
        elif newer := [p.name for p in list_checkpoints(folder.checkpoints) if step_of(p) > state["step"]]:
            raise ValueError(
                f"{folder.checkpoints} has newer checkpoints ({', '.join(newer)}); remove them to go back to"
                f" {path.name}, or choose another --out"
            )
        _compare(state["config"], config, folder, named=True, warn=warn)
        return state
    if config.resume == "never":
        _require_empty(folder, "leave --resume out to go on with it")
        return None
    found = newest_checkpoint(folder.checkpoints, warn, RUN)
    if found is not None:
        _compare(found[1]["config"], config, folder, named=False, warn=warn)
        return found[1]
    if folder.config.is_file():  # ended before its first checkpoint: the same run starts again
        _compare(_read_config(folder), config, folder, named=False, warn=warn)
    else:
        _require_empty(folder, "it is no run folder")
    return None


def _read_config(folder: RunFolder) -> dict[str, Any]:
    """A run's config.yaml; raises ValueError when a file of that name is something else."""
    try:
        values = read_options(folder.config)
    except ValueError as error:
        raise ValueError(f"{folder.config} is not that of a run ({error}); choose another folder with --out") from error
    if not isinstance(values.get("model"), dict) or "steps" not in values:
        raise ValueError(f"{folder.config} is not that of a run; choose another folder with --out")
    return values


def first_network(config: TrainConfig) -> AMINet | None:
    """The network whose weights a new run starts from; None where ``start_from`` names none.

    Raises:
        FileNotFoundError, ValueError: as `load_model`, and ValueError when it is another network than the run's, or
            its weights expect other pictures than the run's data settings make.
    """
    start_from = config.start_from
    if start_from is None:
        return None
    model = load_model(start_from)
    check_served(model.expects)
    check_scale(model.expects, config.data.scale)
    theirs, ours = model.config.to_dict(), config.network().to_dict()
    if other := [f"{name}: {was!r} -> {ours[name]!r}" for name, was in theirs.items() if was != ours[name]]:
        raise ValueError(
            f"start_from {start_from} holds another network than this run's ({', '.join(other)}); choose its"
            " --preset, or its --model fields"
        )
    return model


def check_faces(
    state: dict[str, Any], faces: str, vgg: str | None, world: int, *, named: bool, warn: Callable[[str], None]
) -> None:
    """Raises ValueError when training faces, VGG19's weights or the number of processes are not the checkpoint's.

    Args:
        state: The checkpoint.
        faces: Fingerprint of the training faces.
        vgg: Fingerprint of VGG19's weights; None: the run has none.
        world: Processes.
        named: The user named the checkpoint: then it is a warning.
        warn: What takes that.
    """
    problems = []
    if vgg is not None and (state.get("gan") or {}).get("vgg") not in (None, vgg):
        problems.append("the weights of VGG19 are not those this run has learned from so far")
    if state["faces"] != faces:
        problems.append("the training faces are not those this run has seen so far (files or data settings changed)")
    if state["world"] != world:
        problems.append(f"the run had {state['world']} processes, now there are {world}")
    for problem in problems:
        if not named:
            raise ValueError(
                f"{problem}; name the checkpoint with --resume to go on all the same, or use another --out"
            )
        warn(f"{problem}; the numbers will not be those of one uninterrupted run")


def _require_empty(folder: RunFolder, remedy: str) -> None:
    if folder.root.is_dir() and not folder.is_blank():
        raise ValueError(f"the run folder {folder.root} is not empty; {remedy}, or choose another with --out")
    if folder.root.exists() and not folder.root.is_dir():
        raise ValueError(f"the run folder {folder.root} is a file; choose another with --out")


def _compare(
    old: dict[str, Any], config: TrainConfig, folder: RunFolder, *, named: bool, warn: Callable[[str], None]
) -> None:
    scale = (old.get("data") or {}).get("scale", Expects().scale)
    if scale != config.data.scale:  # the weights would say that they are for what half of their training was not
        raise ValueError(
            f"the run's network enlarges {scale} times and the data settings say {config.data.scale}:"
            f" pass --data.scale {scale}, or choose another --out"
        )
    changed = differences(old, config.to_dict())
    if config.schedule != "constant":  # its shape hangs on the length of the run
        changed |= {n: (old[n], getattr(config, n)) for n in ("steps", "epochs") if old[n] != getattr(config, n)}
    if not changed:
        return
    listed = ", ".join(f"{name}: {was!r} -> {now!r}" for name, (was, now) in changed.items())
    if any(name.startswith("model.") for name in changed):
        raise ValueError(f"the checkpoint's network is another one ({listed}); go back to it, or choose another --out")
    if not named:
        raise ValueError(
            f"the run in {folder.root} has another recipe ({listed}); go back to it, choose another --out, or"
            f" change it on purpose with --resume {folder.checkpoints}/step-....pt"
        )
    warn(f"the recipe changed ({listed})")


def _launch() -> str:
    """What all starts of one launch, and none of another, have in common; empty without torchrun."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ""
    parent = os.getppid() if os.environ["GROUP_WORLD_SIZE"] == "1" else 0  # of several nodes each has its own
    names = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")
    return " ".join([*(os.environ[name] for name in names), str(parent)])


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
