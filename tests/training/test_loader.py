"""Faces and loader processes that are lost in mid-run."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aminet_fast.training import run as run_module
from aminet_fast.training import train
from aminet_fast.training import trainer as trainer_module
from aminet_fast.training import validation as validation_module
from aminet_fast.training.batches import LoaderError, explain
from aminet_fast.training.runs.checkpoint import list_checkpoints
from tests.training.tiny import checkpoint, column, full, go_on, tiny


@pytest.mark.parametrize(
    ("error", "ended", "said"),
    [
        (RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)"), [], "/dev/shm"),
        (MemoryError("Caught MemoryError in DataLoader worker process 0."), [], "machine's memory is full"),
        (RuntimeError("received 0 items of ancdata"), [], "ulimit -n"),
        (RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly"), [-9], "by SIGKILL.*--workers .now 3"),
        (RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly"), [-7], "by SIGBUS.*face cache"),
        (ConnectionResetError(104, "Connection reset by peer"), [-9], "by SIGKILL"),
        (RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly"), [-11], "by SIGSEGV"),
        (RuntimeError("DataLoader worker (pid(s) 5) exited unexpectedly"), [3], "with exit status 3"),
        (
            OSError("Caught OSError in DataLoader worker process 0.\nTraceback:\nOSError: f.npy is gone\n"),
            [],
            r": f\.npy",
        ),
        (ValueError("what"), [], "could not be loaded: what"),
    ],
)
def test_what_is_said_of_a_loader(error: Exception, ended: list[int], said: str) -> None:
    text = explain(error, ended, workers=3, batch_size=2)
    with pytest.raises(LoaderError, match=said):
        raise LoaderError(text)
    assert "\n" not in text


def test_a_loader_process_that_is_killed_costs_no_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the system does when memory is full."""
    options: dict[str, Any] = {"steps": 8, "ema": 0.9}

    def kill(step: int, loss: float) -> None:
        if step == 2:
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    with pytest.raises(LoaderError, match="ended by SIGKILL, which is how the system ends processes"):
        train(tiny(tmp_path, workers=1, **options), callback=kill)
    assert list_checkpoints(tmp_path / "run/checkpoints")[-1].stem[-1] == column(tmp_path / "run", "step")[-1]
    assert "ended by SIGKILL" in (tmp_path / "run/log.txt").read_text()
    assert multiprocessing.active_children() == []
    go_on(tmp_path, **options)


def test_a_step_whose_second_batch_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm's statistics would keep the first one."""
    batches = trainer_module.train_batches

    def three(*args: Any, **kwargs: Any) -> Iterator[Any]:
        rest = batches(*args, **kwargs)
        yield from (next(rest) for _ in range(3))
        raise OSError("the disk of the faces is gone")

    monkeypatch.setattr(trainer_module, "train_batches", three)
    with pytest.raises(LoaderError, match="the disk of the faces is gone; start again"):
        train(tiny(tmp_path, accumulate=2, steps=3))
    monkeypatch.undo()
    go_on(tmp_path, accumulate=2, steps=3)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_face_cache_that_is_lost_is_named(tmp_path: Path, workers: int, how: str) -> None:
    cache = tmp_path / "cache"
    config = tiny(tmp_path, data={"cache": str(cache)}, workers=workers, steps=40)

    def harm(*args: Any) -> None:
        for file in cache.glob("faces/*/hr.npy"):
            os.truncate(file, 3000) if how == "cut" else file.unlink()

    with pytest.MonkeyPatch.context() as patch:
        if how == "gone":  # before it was opened; one that is open stays readable
            session = run_module._session
            patch.setattr(run_module, "_session", lambda *args: (session(*args), harm())[0])
        with pytest.raises(LoaderError, match=r"hr\.npy of the face cache (was cut short|cannot be read)"):
            train(config, callback=lambda step, loss: harm() if how == "cut" and step == 2 else None)
    newest = [int(path.stem[-8:]) for path in list_checkpoints(tmp_path / "run/checkpoints")]
    assert newest == ([] if how == "gone" else [int(column(tmp_path / "run", "step")[-1])])
    assert train(tiny(tmp_path, data={"cache": str(cache)}, steps=3 if how == "gone" else newest[-1] + 1)) == 0


def test_validation_faces_that_are_lost_cost_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation_module, "psnr", full)
    with pytest.raises(OSError, match="No space left"):
        train(tiny(tmp_path, val_every=2))
    monkeypatch.undo()
    assert checkpoint(tmp_path / "run", 2)["owed"]
    go_on(tmp_path, val_every=2)
