"""What a run leaves behind, how it stops, and what it refuses to start."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from aminet_fast import load_model
from aminet_fast.data import DataConfig, open_faces
from aminet_fast.evaluate import evaluate_model
from aminet_fast.training import train
from aminet_fast.training.trainer import DivergedError, Trainer
from tests.training.tiny import checkpoint, column, tiny


def test_run_folder(tmp_path: Path) -> None:
    config = tiny(tmp_path, val_every=2, panel_every=4, ema=0.5, checkpoint_every=2, log_every=3, plot=True)
    assert train(config) == 0
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir()) == [
        ".lock", "best", "checkpoints", "config.yaml", "last", "log.txt", "metrics.csv", "panels", "plot.png",
        "runs.jsonl",
    ]  # fmt: skip
    assert [p.name for p in (run / "panels").iterdir()] == ["step-00000004.png"]
    assert column(run, "step") == ["2", "3", "4"]
    assert column(run, "val_psnr")[1] == ""
    assert float(column(run, "val_bicubic_psnr")[0]) > 15
    assert column(run, "images") == ["4", "6", "8"]
    x = torch.zeros(1, 3, 32, 32)
    averaged = checkpoint(run, 4)["ema"]
    last = load_model(run / "last")
    assert all(torch.equal(averaged[k], v) for k, v in last.state_dict().items())
    assert torch.equal(last(x), load_model(run / "checkpoints/step-00000004.pt")(x))
    assert not torch.equal(averaged["head.weight"], checkpoint(run, 4)["model"]["head.weight"])
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["hourglass_width"] == 4


@pytest.mark.parametrize("ema", [None, 0.5])
def test_validation_is_what_evaluate_says_of_the_saved_weights(tmp_path: Path, ema: float | None) -> None:
    config = tiny(tmp_path, val_every=4, ema=ema, data={"val_limit": 5}, init="normal")
    train(config)
    faces = open_faces(config.data, "val")
    scores = evaluate_model(load_model(tmp_path / "run/last"), faces, protocol="fsr", batch_size=3)
    assert len(scores.names) == 5
    for name, wanted, margin in (
        # another memory format and batch size: a pixel in thousands falls to the next level
        ("val_psnr", scores.ours.mean_psnr, 1e-3),
        ("val_ssim", scores.ours.mean_ssim, 1e-4),
        ("val_bicubic_psnr", scores.bicubic.mean_psnr, 1e-9),
        ("val_bicubic_ssim", scores.bicubic.mean_ssim, 1e-9),
    ):
        assert float(column(tmp_path / "run", name)[-1]) == pytest.approx(wanted, abs=margin), name


def test_best_is_the_best_validated(tmp_path: Path) -> None:
    train(tiny(tmp_path, val_every=1, steps=5, checkpoint_every=1, keep=9, lr=3e-2))
    scores = [float(v) for v in column(tmp_path / "run", "val_psnr")]
    step = scores.index(max(scores)) + 1
    assert checkpoint(tmp_path / "run", 5)["best"] == max(scores)
    kept = checkpoint(tmp_path / "run", step)["model"]
    assert all(torch.equal(kept[k], v) for k, v in load_model(tmp_path / "run").state_dict().items())


def test_the_loss_falls(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=24, data={"limit": 2}, log_every=6))
    losses = [float(v) for v in column(tmp_path / "run", "loss")]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops(tmp_path: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    handler = signal.getsignal(number)
    config = tiny(tmp_path, steps=99)
    assert train(config, callback=lambda step, loss: os.kill(os.getpid(), number) if step == 2 else None) == 0
    assert checkpoint(config.out, 3)["step"] == 3  # asked for while between steps: one more is finished
    assert signal.getsignal(number) is handler
    captured = capfd.readouterr()
    assert f"stopped by {number.name} after step 3; go on with: aminet train --config" in captured.out
    assert "Once more quits at once" in captured.err


def test_time_limit_validates_saves_and_stops(tmp_path: Path) -> None:
    assert train(tiny(tmp_path, steps=999, stop_after_minutes=1e-6, val_every=500)) == 0
    assert column(tmp_path / "run", "val_psnr")[-1] != ""
    assert (tmp_path / "run/best/model.safetensors").is_file()


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    train(tiny(tmp_path, checkpoint_minutes=1e-9, keep=9))
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 4


def test_nan_stops_with_a_dump_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, diverged = Trainer._step, Trainer._diverged

    def captured(self: Trainer, *args: Any) -> None:
        group = self.session.optimizer.param_groups[0]
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)  # as a CUDA graph of the step makes it
        diverged(self, *args)

    def poisoned(self: Trainer, batches: object, signals: object) -> object:
        if self.session.step == 2:
            with torch.no_grad():
                self.session.net.head.weight.fill_(float("nan"))
        return step(self, batches, signals)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", poisoned)
    monkeypatch.setattr(Trainer, "_diverged", captured)
    config = tiny(tmp_path, checkpoint_every=1, keep=9)
    with pytest.raises(DivergedError, match="loss is not finite after step 3"):
        train(config)
    dump = tmp_path / "run/nan-step-00000003"
    facts = json.loads((dump / "rank-0.json").read_text())
    assert facts["step"] == 3
    assert facts["lr"] == 1e-3
    assert [len(names) for names in facts["names"]] == [2]
    assert torch.load(dump / "rank-0.pt", weights_only=True)["input"].shape == (2, 3, 32, 32)
    assert [p.stem[-1] for p in sorted((tmp_path / "run/checkpoints").iterdir())] == ["1", "2"]
    last = load_model(tmp_path / "run/last")
    assert all(v.isfinite().all() for v in last.state_dict().values())
    assert "not finite" in (tmp_path / "run/log.txt").read_text()


def test_weights_that_overflow_under_a_finite_loss_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(DivergedError):
        train(tiny(tmp_path, lr=1e38, checkpoint_every=1, betas=[0.0, 0.0]))
    for path in (tmp_path / "run/checkpoints").iterdir():
        model = torch.load(path, weights_only=True)["model"]
        assert all(v.isfinite().all() for v in model.values())


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.tex").write_text("work of years")
    with pytest.raises(ValueError, match="not empty; it is no run folder"):
        train(tiny(tmp_path))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_divergence_is_told_even_where_the_dump_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> Path:
        raise OSError("no space left")

    monkeypatch.setattr("aminet_fast.training.trainer.dump_batches", full)
    with pytest.raises(DivergedError, match=r"not finite after step 1 .*could not be written \(no space left\)"):
        train(tiny(tmp_path, lr=1e38, checkpoint_every=1, betas=[0.0, 0.0]))


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard's curves of a run, as its page shows them: name -> (step, value)."""
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra [tracking]"
    ).EventAccumulator(str(run / "events"))
    accumulator.Reload()
    return {n: [(e.step, e.value) for e in accumulator.Scalars(n)] for n in accumulator.Tags()["scalars"]}


def test_tensorboard_shows_the_rows_of_the_csv_also_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra [tracking]")
    run = tmp_path / "run"
    config = tiny(tmp_path, tensorboard=True, checkpoint_every=2, val_every=2)

    def crash(step: int, loss: float) -> None:
        if step == 4:
            raise RuntimeError("as a kill would")

    with pytest.raises(RuntimeError, match="as a kill would"):
        train(config, callback=crash)
    assert [step for step, _ in events(run)["loss"]] == [1, 2, 3]
    assert train(config) == 0
    shown = events(run)
    for name in ("loss", "val_psnr", "val_bicubic_ssim", "lr"):
        rows = zip(column(run, "step"), column(run, name), strict=True)
        wanted = [(int(step), pytest.approx(float(value), rel=1e-6)) for step, value in rows if value]
        assert shown[name] == wanted
    assert len(shown["val_psnr"]) == 2


def test_tensorboard_that_is_not_there_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'aminet-fast\[tracking\]'"):
        train(tiny(tmp_path, tensorboard=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["lr: 0.1\nlayers: 3\n", "{}", "[1, 2]", "a: [", "name: x"])
def test_another_programs_config_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml is not that of a run.*--out"):
        train(tiny(tmp_path))
    assert (tmp_path / "run/config.yaml").read_text() == text


def test_the_end_names_the_weights_that_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny(tmp_path, steps=1))
    assert capsys.readouterr().out.strip().endswith(f"weights in {tmp_path / 'run/last'}")


def test_resume_never_refuses_an_existing_run(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=1))
    with pytest.raises(ValueError, match=r"not empty.*--out"):
        train(tiny(tmp_path, resume="never"))


def test_unwritable_run_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"cannot write the run folder .*--out"):
        train(tiny(tmp_path, out=str(tmp_path / "file" / "run")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--device cpu"):
        train(tiny(tmp_path, device="cuda"))
    assert not (tmp_path / "run").exists()


def test_wrong_requests_touch_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aminet-enormous"):
        train(tiny(tmp_path, preset="aminet-enormous"))
    with pytest.raises(ValueError, match="colour"):
        train(tiny(tmp_path, model={"colour": 3}))
    with pytest.raises(ValueError, match=r"width is 1\.5"):
        train(tiny(tmp_path, model={"width": 1.5}))
    with pytest.raises(ValueError, match=r"data.size is 24.*multiples of 16"):
        train(tiny(tmp_path, data={"size": 24}))
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        tiny(tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="seed is -1"):
        tiny(tmp_path, seed=-1)
    with pytest.raises(ValueError, match=r"give --val\.size 32"):
        tiny(tmp_path, val=DataConfig())
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        train(tiny(tmp_path, resume=str(tmp_path / "gone.pt")))
    with pytest.raises((ValueError, OSError), match="nowhere"):
        train(tiny(tmp_path, val_every=1, val=DataConfig(root=str(tmp_path / "nowhere"), size=32)))
    assert not (tmp_path / "run").exists()
