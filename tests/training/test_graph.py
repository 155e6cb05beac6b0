"""`--cuda_graph`: the same run, its step captured. On the CPU the step runs as it is, through the same code."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast.training import train
from tests.training.tiny import checkpoint, column, tiny, unequal

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def run(folder: Path, **changes: Any) -> Path:
    """A run in a folder of its own, with what the captured step has to take along: clipping, an average, a schedule."""
    folder.mkdir(exist_ok=True)
    options = {"grad_clip": 0.5, "ema": 0.9, "schedule": "cosine", "warmup_steps": 2, "checkpoint_every": 2}
    assert train(tiny(folder, **options, **changes)) == 0
    return folder / "run"


def test_a_graphed_run_is_the_plain_one(tmp_path: Path) -> None:
    plain, graphed = run(tmp_path / "plain"), run(tmp_path / "graphed", cuda_graph=True)
    assert column(plain, "loss") == column(graphed, "loss")
    states = [checkpoint(folder, 4) for folder in (plain, graphed)]
    for name in ("model", "optimizer", "ema", "step"):
        assert not unequal(states[0][name], states[1][name], name)


def test_either_goes_on_from_the_other(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    for first in (True, False):
        folder = tmp_path / f"first-{first}"
        folder.mkdir()
        options = {"grad_clip": 0.5, "ema": 0.9, "schedule": "cosine", "warmup_steps": 2, "checkpoint_every": 2}
        stop = tiny(folder, **options, cuda_graph=first)
        assert train(stop, callback=lambda step, loss: step == 2) == 0
        assert train(tiny(folder, **options, cuda_graph=not first)) == 0
        assert column(folder / "run", "loss") == column(whole, "loss")


@pytest.mark.parametrize("changes", [{"accumulate": 2}, {"compile": True}])
def test_what_a_graph_cannot_hold_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cuda_graph captures a step of one batch"):
        tiny(tmp_path, cuda_graph=True, **changes)


@pytest.mark.gpu
@NO_GPU
def test_a_graphed_run_on_a_gpu(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        folders = [run(tmp_path / str(g), cuda_graph=g, device="cuda", deterministic=True) for g in (False, True)]
    losses = [[float(value) for value in column(folder, "loss")] for folder in folders]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
