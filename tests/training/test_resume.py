"""2n steps are n steps, a resumption, and n steps: in every bit."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from aminet_fast.data import DataConfig
from aminet_fast.training import TrainConfig, train
from aminet_fast.training.session import Session
from tests.training.tiny import MODEL, checkpoint, column, tiny, unequal

STATE = ("step", "model", "optimizer", "scaler", "ema", "rng", "loss_sum", "loss_count", "best", "faces")
RECIPES = {
    "plain": {},
    "workers": {"workers": 2},
    "ema": {"ema": 0.9},
    "cosine": {"schedule": "cosine", "warmup_steps": 2},
    "accumulate": {"accumulate": 2, "grad_clip": 0.1},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "validating": {"val_every": 2, "log_every": 1, "ema": 0.9},
}


CROSSING = {"data": {"limit": 5}, "log_every": 3}  # the rows cross the stop, the faces an epoch


def whole_run(tmp_path: Path, recipe: dict[str, Any]) -> str:
    """The run folder of four steps at once; each step draws from the generators, too."""
    config = tiny(tmp_path, out=str(tmp_path / "whole"), **{**CROSSING, **recipe})
    assert train(config, callback=lambda step, loss: draw(stop=False)) == 0
    return str(config.out)


def run_in_parts(tmp_path: Path, recipe: dict[str, Any]) -> str:
    """The same in two and two."""
    config = tiny(tmp_path, out=str(tmp_path / "parts"), **{**CROSSING, **recipe})
    assert train(config, callback=lambda step, loss: draw(stop=step == 2)) == 0
    assert not (Path(str(config.out)) / "checkpoints/step-00000004.pt").exists()
    scramble()
    assert train(config, callback=lambda step, loss: draw(stop=False)) == 0
    return str(config.out)


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> str:
    return whole_run(tmp_path_factory.mktemp("averaged"), RECIPES["ema"])


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that only refusals look at."""
    folder = tmp_path_factory.mktemp("two_steps")
    train(tiny(folder, steps=2))
    return folder


def draw(*, stop: bool) -> bool:
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    return stop


def scramble() -> None:
    """A resumption must not live on what the first half left in the process."""
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)


def compare(whole: str, parts: str) -> list[str]:
    a, b = ({name: state[name] for name in STATE} for state in (checkpoint(run, 4) for run in (whole, parts)))
    rows = ({name: column(run, name) for name in ("step", "loss", "lr", "val_psnr")} for run in (whole, parts))
    return unequal(a, b) + unequal(*rows)


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, name: str) -> None:
    whole, parts = (run(tmp_path, RECIPES[name]) for run in (whole_run, run_in_parts))
    assert compare(whole, parts) == []
    assert column(whole, "loss") != []


def test_workers_do_not_change_the_numbers(tmp_path: Path) -> None:
    runs = [tiny(tmp_path, out=str(tmp_path / str(workers)), workers=workers) for workers in (0, 2)]
    for run in runs:
        train(run)
    a, b = (checkpoint(run.out, 4) for run in runs)
    assert unequal({k: a[k] for k in STATE}, {k: b[k] for k in STATE}) == []


@pytest.mark.parametrize(
    ("forgotten", "found"),
    [
        ("optimizer", ".optimizer"),
        ("model", ".model"),
        ("ema", ".ema"),
        ("rng", ".rng"),
        ("loss_sum", ".loss."),
    ],
)
def test_the_comparison_notices_what_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, averaged: str, forgotten: str, found: str
) -> None:
    """Leave one part of the checkpoint out of the resumption: the test above has to fail on it."""
    restore = Session._restore

    def forgetful(self: Session, start: dict[str, Any]) -> None:
        fresh = {**self.state(), "loss_sum": 1.0}
        restore(self, {**start, forgotten: fresh[forgotten]})
        if forgotten == "model":
            with torch.no_grad():
                next(self.net.parameters()).add_(1e-6)

    monkeypatch.setattr(Session, "_restore", forgetful)
    assert any(path.startswith(found) for path in compare(averaged, run_in_parts(tmp_path, RECIPES["ema"])))


def test_a_longer_run_goes_on_with_the_constant_schedule(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    train(tiny(tmp_path, steps=4))
    assert column(tmp_path / "run", "step") == ["1", "2", "3", "4"]


def test_complete_run_says_so_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(tmp_path, steps=2)
    train(config)
    before = (tmp_path / "run/metrics.csv").read_bytes()
    assert train(config) == 0
    assert "is complete at step 2" in capsys.readouterr().out
    assert (tmp_path / "run/metrics.csv").read_bytes() == before


def test_rows_after_the_checkpoint_are_dropped(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=4, checkpoint_every=2))
    (tmp_path / "run/checkpoints/step-00000004.pt").unlink()
    with (tmp_path / "run/metrics.csv").open("a") as file:
        file.write("5,1.0,1")  # a row that a kill cut short
    train(tiny(tmp_path, steps=4))
    assert column(tmp_path / "run", "step") == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lr": 5e-4}, "lr: 0.001 -> 0.0005"),
        ({"batch_size": 1}, "batch_size: 2 -> 1"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"ema": 0.5}, "ema: None -> 0.5"),
        ({"model": {**MODEL, "hourglass_width": 8}}, "model.hourglass_width: 4 -> 8"),
        ({"data": {"limit": 9}}, "training faces"),
    ],
)
def test_another_configuration_is_refused_by_name(two_steps: Path, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        train(tiny(two_steps, **changes))
    assert "--out" in str(caught.value)


def test_harmless_options_may_change(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    assert train(tiny(tmp_path, steps=4, log_every=2, workers=1, keep=1, checkpoint_every=1)) == 0
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000004.pt"]


def test_cosine_is_not_stretched_unasked(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2, schedule="cosine"))
    with pytest.raises(ValueError, match="steps: 2 -> 4"):
        train(tiny(tmp_path, steps=4, schedule="cosine"))


def test_a_named_checkpoint_allows_another_recipe_and_another_folder(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    named = str(tmp_path / "run/checkpoints/step-00000002.pt")
    assert train(tiny(tmp_path, lr=5e-4, resume=named, out=str(tmp_path / "fork"))) == 0
    assert column(tmp_path / "fork", "lr") == ["0.0005", "0.0005"]
    with pytest.raises(ValueError, match="hourglass_width"):
        train(tiny(tmp_path, model={**MODEL, "hourglass_width": 8}, resume=named, out=str(tmp_path / "third")))


def test_going_back_over_newer_checkpoints_is_refused(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=4, checkpoint_every=2))
    with pytest.raises(ValueError, match=r"newer checkpoints \(step-00000004.pt\)"):
        train(tiny(tmp_path, resume=str(tmp_path / "run/checkpoints/step-00000002.pt")))


@pytest.mark.parametrize("resume", ["never", "named"])
def test_the_runs_own_config_goes_on_with_it_however_it_was_started(tmp_path: Path, resume: str) -> None:
    train(tiny(tmp_path, steps=2))
    if resume == "named":
        resume = str(tmp_path / "run/checkpoints/step-00000002.pt")
    out = tmp_path / "other"
    recipe = {"out": str(out), "lr": 5e-4, "checkpoint_every": 1}
    train(tiny(tmp_path, **recipe, steps=3, resume=resume))
    again = TrainConfig(
        **{**yaml.safe_load((out / "config.yaml").read_text()), "steps": 4, "data": tiny(tmp_path).data}
    )
    assert train(again) == 0
    assert column(out, "step")[-1] == "4"


def test_a_fork_that_ends_before_its_first_checkpoint_is_still_a_fork(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    named = str(tmp_path / "run/checkpoints/step-00000002.pt")
    fork = tiny(tmp_path, out=str(tmp_path / "fork"), resume=named)

    def crash(step: int, loss: float) -> bool:
        raise RuntimeError("as a kill would")

    with pytest.raises(RuntimeError, match="as a kill would"):
        train(fork, callback=crash)
    train(tiny(tmp_path, out=fork.out))
    assert column(fork.out, "step") == ["3", "4"]


def test_the_best_score_is_of_these_faces_and_in_this_folder(tmp_path: Path) -> None:
    """One won on easier faces, or by weights that lie elsewhere, must not keep out what is best here."""
    train(tiny(tmp_path, steps=2, val_every=2))
    first = checkpoint(tmp_path / "run", 2)
    assert first["best"] == float(column(tmp_path / "run", "val_psnr")[-1])
    easy = {**first, "best": 99.0}
    path = tmp_path / "run/checkpoints/step-00000002.pt"

    torch.save(easy, path)
    train(tiny(tmp_path, steps=3, val_every=1))
    assert checkpoint(tmp_path / "run", 3)["best"] == 99.0

    torch.save(easy, path)
    train(tiny(tmp_path, steps=3, val_every=1, resume=str(path), out=str(tmp_path / "fork")))
    assert (tmp_path / "fork/best").is_dir()
    other = DataConfig(size=32, drawn=64, limit=2, seed=5, cache=str(tmp_path.parent / "faces"))
    train(tiny(tmp_path, steps=4, val_every=1, val=other))
    assert checkpoint(tmp_path / "run", 4)["best"] == float(column(tmp_path / "run", "val_psnr")[-1])


def test_a_checkpoint_under_another_name_is_as_old_as_its_step(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    newest = tmp_path / "run/checkpoints/step-00000002.pt"
    kept = newest.with_name("good.pt")
    kept.write_bytes(newest.read_bytes())
    train(tiny(tmp_path, steps=3, resume=str(kept)))
    assert column(tmp_path / "run", "step")[-1] == "3"
