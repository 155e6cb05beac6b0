"""What is kept of a step whose loss is not a number."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ..batches import Batch
from ..runs.folder import write_file, write_torch


class DivergedError(RuntimeError):
    """The loss or the weights are no longer finite; the message says at which step and where the dump is."""


def dump_batches(root: Path, batches: list[Batch], *, step: int, lr: float, losses: list[float], rank: int) -> Path:
    """Write a step's faces to ``root/nan-step-XXXXXXXX``: names and numbers as JSON, pictures as .pt."""
    folder = root / f"nan-step-{step:08d}"
    folder.mkdir(exist_ok=True)
    facts = {"step": step, "lr": lr, "losses": losses, "names": [list(b["name"]) for b in batches]}
    text = json.dumps(facts, indent=2) + "\n"
    write_file(folder / f"rank-{rank}.json", lambda file: file.write(text.encode()))
    tensors = {k: torch.cat([b[k].cpu() for b in batches]) for k in ("input", "hr")}
    write_torch(folder / f"rank-{rank}.pt", tensors)
    return folder
