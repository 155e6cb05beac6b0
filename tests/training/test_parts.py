"""Schedule, average, initial weights, generators and rows, each alone."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aminet_fast.training import rng
from aminet_fast.training.config import TrainConfig, differences
from aminet_fast.training.ema import Shadow
from aminet_fast.training.optim import init_normal, learning_rate
from aminet_fast.training.runs.metrics_csv import COLUMNS, MetricsCSV, read_metrics
from tests.training.tiny import MODEL, tiny, unequal


def test_defaults_are_the_papers_recipe() -> None:
    config = TrainConfig()
    assert (config.lr, config.betas, config.batch_size, config.loss) == (2e-4, (0.9, 0.99), 32, "l1")
    assert config.total_steps(18_000, 1) == 84_375
    assert config.total_steps(18_000, 4) == 21_094
    assert {learning_rate(config, step, 84_375) for step in (0, 1, 84_374)} == {2e-4}
    assert str(config.folder()) == "runs/aminet"


def test_cosine_with_warmup() -> None:
    config = TrainConfig(schedule="cosine", warmup_steps=4, lr=1.0)
    assert [learning_rate(config, s, 12) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert learning_rate(config, 4, 12) == 1.0
    assert learning_rate(config, 8, 12) == pytest.approx(0.5)
    assert learning_rate(config, 11, 12) == pytest.approx(0.0380602337)


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))


def test_average_is_the_recursion_and_copies_buffers() -> None:
    model = small()
    shadow = Shadow(model, 0.9)
    wanted = model[0].weight.detach().double()
    for step in range(1, 40):
        with torch.no_grad():
            model[0].weight.normal_()
            model(torch.randn(2, 1, 8, 8))
        shadow.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach().double()
    averaged = shadow.model()
    torch.testing.assert_close(averaged[0].weight.double(), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(averaged[1].running_mean, model[1].running_mean)
    assert averaged[1].num_batches_tracked == 39
    assert not averaged.training
    assert not any(p.requires_grad for p in averaged.parameters())


def test_without_a_decay_the_shadow_is_the_network() -> None:
    model = small()
    shadow = Shadow(model, None)
    with torch.no_grad():
        model[0].weight.fill_(3.0)
    shadow.update(1)
    assert unequal(dict(shadow.model().state_dict()), dict(model.state_dict())) == []


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


def test_csv_keeps_every_digit_and_drops_what_comes_again(tmp_path: Path) -> None:
    table = MetricsCSV(tmp_path / "metrics.csv")
    table.open(0)
    for step in (1, 2, 3):
        table.write({"step": step, "loss": step / 3})
    table.open(2)
    rows = read_metrics(table.path)
    assert [r["step"] for r in rows] == ["1", "2"]
    assert float(rows[1]["loss"]) == 2 / 3
    assert rows[0]["val_psnr"] == ""
    assert table.path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_differences_name_what_matters(tmp_path: Path) -> None:
    old = tiny(tmp_path).to_dict()
    new = tiny(tmp_path, workers=3, log_every=7, lr=0.5, model={**MODEL, "width": 8, "heads": [1, 1, 1, 1]}).to_dict()
    assert differences(old, new) == {
        "lr": (1e-3, 0.5),
        "model.width": (4, 8),
        "model.heads": ([1, 2, 4, 8], [1, 1, 1, 1]),
    }


def test_a_field_that_an_old_run_did_not_have_is_at_its_default(tmp_path: Path) -> None:
    old, new = tiny(tmp_path).to_dict(), tiny(tmp_path).to_dict()
    del old["augment"], old["model"]["skaf_mix"]
    assert differences(old, new) == {}
    assert differences(old, {**new, "augment": "none"}) == {"augment": ("full", "none")}
