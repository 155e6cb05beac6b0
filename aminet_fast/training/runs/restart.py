"""Going on under ``torchrun --max-restarts``: it starts all processes anew when one of them has died."""

from __future__ import annotations

import dataclasses
import os
from datetime import timedelta
from pathlib import Path

import torch

from ..config import TrainConfig
from .checkpoint import list_checkpoints
from .folder import RunFolder

# The others wait while the first process decodes a whole set of faces; NCCL's default would end them after ten minutes.
PATIENCE = timedelta(hours=2)


def restarts() -> int:
    """How often torchrun has started this process anew; 0 without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join(backend: str) -> None:
    """Form the process group of a restart; does nothing at the first start.

    torchrun's store outlives the processes, and under the same keys it still has the addresses of those that died:
    the new ones would wait for them. So each start gets keys of its own. With several nodes every one counts its
    restarts for itself, and the keys would differ: there torch has to do it
    (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each start a new store).
    """
    if not restarts() or os.environ["GROUP_WORLD_SIZE"] != "1":
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = torch.distributed.TCPStore(address, port, world, is_master=not hosted and rank == 0)
    named = torch.distributed.PrefixStore(f"start-{restarts()}", store)
    torch.distributed.init_process_group(backend, store=named, rank=rank, world_size=world, timeout=PATIENCE)


def mark(folder: RunFolder) -> None:
    """Write down which launch fills the run folder."""
    folder.launcher.write_text(_launch()) if _launch() else folder.launcher.unlink(missing_ok=True)


def resumed(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """``config``, with "auto" in place of another ``resume`` when a restart finds the run that its launch began.

    The command line is the same each time, and says where the first start was to begin, or that there be no run yet.
    """
    begun = list_checkpoints(folder.checkpoints) if config.names_checkpoint else folder.config.is_file()
    if restarts() and begun and _read(folder.launcher) == _launch():
        return dataclasses.replace(config, resume="auto")
    return config


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
