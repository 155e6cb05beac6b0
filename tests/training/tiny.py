"""A run of seconds, for the tests of training: drawn faces of 32x32 and the narrowest network."""

from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import torch

from aminet_fast.data import DataConfig
from aminet_fast.training import TrainConfig, train

# A forward pass costs what its number of modules costs; BatchNorm, and with it buffers, has to be among them.
MODEL = {
    "width": 4,
    "sa": False,
    "skaf": "none",
    "attention_unit": "none",
    "rdfe_kernels": [3],
    "dw_twice": False,
    "frm_convs": 1,
    "hourglass_width": 4,
}
# What has to be the same, bit for bit, in two runs that are one: of the checkpoint, and of metrics.csv.
STATE = ("step", "model", "optimizer", "ema", "rng", "loss_sum", "loss_count", "best")
NUMBERS = ("step", "loss", "lr", "val_psnr", "val_ssim")


def tiny(tmp_path: Path, **changes: Any) -> TrainConfig:
    faces = {"size": 32, "drawn": 64, "limit": 10, "val_limit": 3, "cache": str(tmp_path.parent / "faces")}
    values: dict[str, Any] = {
        "model": MODEL,
        "data": DataConfig(**{**faces, **changes.pop("data", {})}),
        "out": str(tmp_path / "run"),
        "batch_size": 2,
        "steps": 4,
        "lr": 1e-3,
        "workers": 0,
        "device": "cpu",
        "log_every": 1,
        "val_every": 0,
        "panel_every": 0,
        "checkpoint_every": 0,
        "panel_faces": 2,
    }
    return TrainConfig(**{**values, **changes})


def checkpoint(run: str | Path, step: int) -> dict[str, Any]:
    return torch.load(Path(run) / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)


def column(run: str | Path, name: str) -> list[str]:
    with (Path(run) / "metrics.csv").open() as file:
        return [row[name] for row in csv.DictReader(file)]


def unequal(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two nested states differ in any bit."""
    if isinstance(a, torch.Tensor):
        same = isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [path]
    if isinstance(a, dict):
        if not isinstance(b, dict) or set(a) != set(b):
            return [path]
        return [p for key in a for p in unequal(a[key], b[key], f"{path}.{key}")]
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return [path]
        return [p for i, (x, y) in enumerate(zip(a, b, strict=True)) for p in unequal(x, y, f"{path}.{i}")]
    return [] if a == b else [path]


def go_on(tmp_path: Path, **options: Any) -> None:
    """Finish the run in ``tmp_path``; it has to be the one that nothing happened to."""
    assert train(tiny(tmp_path, **options)) == 0
    whole = tiny(tmp_path, out=str(tmp_path / "whole"), **{**options, "workers": 0})
    assert train(whole) == 0
    states = (checkpoint(run, whole.steps or 0) for run in (tmp_path / "run", whole.out))
    a, b = ({n: state[n] for n in STATE} for state in states)
    assert unequal(a, b) == []
    for name in NUMBERS:
        assert column(tmp_path / "run", name) == column(str(whole.out), name), name


def full(*args: Any, **kwargs: Any) -> Any:
    """In place of a write: the disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
