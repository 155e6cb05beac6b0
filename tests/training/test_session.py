"""Initial weights and random generators, each alone; `test_resume` has the whole session."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aminet_fast.training import rng
from aminet_fast.training.session import init_normal


def test_normal_init() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.BatchNorm2d(4096))
    init_normal(model)
    assert model[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model[1].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model[1].weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert not model[0].bias.any()


def numbers() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(1).item()]  # noqa: NPY002


def test_generators_come_back_through_a_file(tmp_path: Path) -> None:
    numbers()  # half of a pair of Gaussian numbers is kept for the next call
    torch.save(rng.capture(), tmp_path / "state.pt")
    wanted = numbers()
    numbers()
    rng.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    assert numbers() == wanted
    rng.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    with rng.preserved():
        numbers()
    assert numbers() == wanted
