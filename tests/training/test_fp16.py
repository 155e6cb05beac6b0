"""float16: a scaled loss, steps that overflow, and what of it is in a checkpoint."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast.training import train, trainer
from aminet_fast.training.trainer import DivergedError, Trainer
from tests.training.tiny import checkpoint, column, tiny, unequal

STATE = ("model", "optimizer", "ema", "scaler", "step")
FIRST = 2.0**9  # lower than PyTorch's, which an untrained network of this width overflows
Hook = Any


@pytest.fixture(autouse=True)
def first_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp, "GradScaler", functools.partial(torch.amp.GradScaler, init_scale=FIRST))


def run(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    assert train(tiny(folder, precision="fp16", checkpoint_every=1, keep=9, **changes)) == 0
    return folder / "run"


def before_step(monkeypatch: pytest.MonkeyPatch, number: int, change: Hook) -> None:
    """Call ``change(trainer)`` before optimiser step ``number``; the first is 1."""
    step = Trainer._step

    def changed(self: Trainer, *arguments: Any) -> Any:
        if self.session.step == number - 1:
            change(self)
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "_step", changed)


def scale_to(value: float) -> Hook:
    def change(trainer: Trainer) -> None:
        trainer.session.scale.scaler.load_state_dict({**trainer.session.scale.state(), "scale": value})  # type: ignore

    return change


def bright_pictures(monkeypatch: pytest.MonkeyPatch, *steps: int) -> None:
    """Inputs beyond float16's range at these steps: the loss is not finite, nor are the statistics."""
    fetch, calls = trainer.to_device, iter(range(1000))

    def changed(pictures: torch.Tensor, *rest: Any) -> torch.Tensor:
        return fetch(pictures, *rest) * (1e6 if next(calls) // 2 + 1 in steps else 1)

    monkeypatch.setattr(trainer, "to_device", changed)


def test_it_is_float16_and_near_float32(tmp_path: Path) -> None:
    half = run(tmp_path / "fp16", grad_clip=0.5)
    train(tiny(tmp_path, grad_clip=0.5))
    ours, wanted = ([float(v) for v in column(folder, "loss")] for folder in (half, tmp_path / "run"))
    assert ours == pytest.approx(wanted, rel=2e-3)
    assert ours[0] != wanted[0]
    assert checkpoint(half, 4)["scaler"]["scale"] == FIRST
    assert checkpoint(half, 4)["scaler"]["_growth_tracker"] == 4
    assert checkpoint(tmp_path / "run", 4)["scaler"] is None


def test_gradients_that_overflow_are_a_step_without_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before_step(monkeypatch, 2, scale_to(2.0**40))
    folder = run(tmp_path, steps=3)
    first, second = (checkpoint(folder, step) for step in (1, 2))
    weights = dict(first["model"])
    moved = unequal(weights, second["model"])
    assert moved
    assert all(name.split(".")[-1] in ("running_mean", "running_var", "num_batches_tracked") for name in moved)
    assert second["optimizer"]["state"][0]["step"] == 1.0
    assert second["scaler"]["scale"] == 2.0**39
    assert len(column(folder, "loss")) == 3
    assert all(math.isfinite(float(value)) for value in column(folder, "loss"))
    said = "step 2 overflowed float16 and changed no weight; the loss scale is now 5.49756e+11"
    assert capsys.readouterr().out.count(said) == 1
    assert (folder / "log.txt").read_text().count(said) == 1


def test_the_last_steps_overflow_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before_step(monkeypatch, 2, scale_to(2.0**40))
    run(tmp_path, steps=2)
    assert capsys.readouterr().out.count("step 2 overflowed") == 1


@pytest.mark.parametrize("graph", [False, True])
def test_a_loss_that_overflows_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    bright_pictures(monkeypatch, 2)
    folder = run(tmp_path, ema=0.9, cuda_graph=graph, log_every=2)
    first, second = (checkpoint(folder, step) for step in (1, 2))
    assert unequal(first["model"], second["model"]) == []
    assert second["scaler"]["scale"] == FIRST / 2
    assert column(folder, "step") == ["2", "4"]
    assert all(math.isfinite(float(value)) for value in column(folder, "loss"))
    assert unequal(second["model"], checkpoint(folder, 4)["model"]) != []


def test_it_goes_on_from_an_overflow_as_if_never_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        bright_pictures(patch, 2)
        whole = run(tmp_path / "whole", ema=0.9)
    with monkeypatch.context() as patch:
        bright_pictures(patch, 2)
        parts = run(tmp_path / "parts", ema=0.9, steps=2)
    run(tmp_path / "parts", ema=0.9, steps=4)
    a, b = ({name: state[name] for name in STATE} for state in (checkpoint(folder, 4) for folder in (whole, parts)))
    assert unequal(a, b) == []
    assert a["scaler"]["scale"] == FIRST / 2
    assert column(whole, "loss") == column(parts, "loss")


def test_a_scale_below_one_is_divergence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poison(trainer: Trainer) -> None:
        with torch.no_grad():
            trainer.session.net.head.weight.fill_(float("nan"))

    before_step(monkeypatch, 2, poison)
    with pytest.raises(DivergedError, match=r"loss is not finite after step 11 .*--precision bf16"):
        train(tiny(tmp_path, precision="fp16", steps=99))
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_gradients_that_never_fit_are_divergence_under_a_finite_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(trainer: Trainer) -> None:
        trainer.session.net.head.weight.register_hook(lambda gradient: gradient * float("nan"))

    before_step(monkeypatch, 1, poison)
    with pytest.raises(DivergedError, match="gradient is not finite after step 11"):
        train(tiny(tmp_path, precision="fp16", steps=99))


def test_an_infinite_loss_that_moved_the_weights_is_divergence_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last layer's overflow leaves an L1 loss's gradients finite: the scaler has nothing to skip."""
    before_step(monkeypatch, 2, lambda trainer: trainer.session.net.tail.bias.data.fill_(1e5))
    with pytest.raises(DivergedError, match="loss is not finite after step 2"):
        train(tiny(tmp_path, precision="fp16", steps=99))


def test_a_graphed_run_is_the_plain_one(tmp_path: Path) -> None:
    plain, graphed = (run(tmp_path / str(g), cuda_graph=g, grad_clip=0.5) for g in (False, True))
    assert column(plain, "loss") == column(graphed, "loss")
    a, b = ({name: state[name] for name in STATE} for state in (checkpoint(folder, 4) for folder in (plain, graphed)))
    assert unequal(a, b) == []


def test_checkpoints_from_before_there_was_a_scaler(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    path = tmp_path / "run/checkpoints/step-00000002.pt"
    old = checkpoint(tmp_path / "run", 2)
    del old["scaler"]
    torch.save(old, path)
    assert train(tiny(tmp_path)) == 0
    (tmp_path / "run/checkpoints/step-00000004.pt").unlink()
    with pytest.raises(ValueError, match="precision: 'fp32' -> 'fp16'"):
        train(tiny(tmp_path, precision="fp16"))
    run(tmp_path / "fork", resume=str(path))
    assert checkpoint(tmp_path / "fork/run", 4)["scaler"]["_growth_tracker"] == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    bright_pictures(monkeypatch, 2)
    folder = run(tmp_path, device="cuda", cuda_graph=graph, deterministic=True, grad_clip=0.5)
    first, second = (checkpoint(folder, step) for step in (1, 2))
    assert unequal(first["model"], second["model"]) == []
    assert second["scaler"]["scale"] == FIRST / 2
    assert checkpoint(folder, 4)["scaler"]["_growth_tracker"] == 2
    assert all(math.isfinite(float(value)) for value in column(folder, "loss") if value)
