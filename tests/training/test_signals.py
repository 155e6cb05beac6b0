"""Signals in every phase of a run, and clocks that jump."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast.training import run as run_module
from aminet_fast.training import train
from aminet_fast.training import validation as validation_module
from aminet_fast.training.runs.checkpoint import list_checkpoints
from aminet_fast.training.signals import StopSignals, outlive_signals
from tests.training.tiny import checkpoint, column, full, go_on, tiny


def at_call(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """Do something at the ``number``-th call of a function."""
    function, calls = getattr(target, name), [0]

    def watched(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return function(*args, **kwargs)

    monkeypatch.setattr(target, name, watched)


@pytest.fixture(autouse=True)
def hang_ups_are_heard() -> Iterator[None]:
    """Under nohup the tests would inherit that they are not."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before if before is not None else signal.SIG_DFL)


def ask(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_a_signal_before_the_first_step_ends_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    number: signal.Signals,
    raised: type[BaseException],
) -> None:
    at_call(monkeypatch, run_module, "open_faces", 1, ask(number))
    with pytest.raises(raised) as caught:
        train(tiny(tmp_path))
    if raised is SystemExit:
        assert caught.value.code == 128 + number  # type: ignore[attr-defined]
    assert f"{number.name}: no step was taken yet" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_breaks_a_validation_off_and_it_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], last: bool
) -> None:
    """Its row, its panel and its best/ come with the resumed run, as if nothing had been."""
    options: dict[str, Any] = {"val_every": 2, "panel_every": 2, "batch_size": 1, "log_every": 3, "ema": 0.9}
    # two scores a face, of ours and of bicubic, which is scored but once: 3 faces are 6 calls, and then 3
    at_call(monkeypatch, validation_module, "psnr", 8 if last else 2, ask(signal.SIGTERM))
    assert train(tiny(tmp_path, **options)) == 0
    monkeypatch.undo()
    stopped = 4 if last else 2
    assert f"stopped by SIGTERM after step {stopped}" in capsys.readouterr().out
    assert checkpoint(tmp_path / "run", stopped)["owed"]
    assert str(stopped) not in column(tmp_path / "run", "step")
    go_on(tmp_path, **options)
    panels = [sorted((tmp_path / name / "panels").iterdir()) for name in ("run", "whole")]
    assert [p.read_bytes() for p in panels[0]] == [p.read_bytes() for p in panels[1]]
    best = [(tmp_path / name / "best/model.safetensors").read_bytes() for name in ("run", "whole")]
    assert best[0] == best[1]


def test_a_validation_broken_off_twice_is_still_owed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"val_every": 2, "batch_size": 1, "log_every": 2, "ema": 0.9}
    for _ in range(2):
        at_call(monkeypatch, validation_module, "psnr", 2, ask(signal.SIGTERM))
        assert train(tiny(tmp_path, **options)) == 0
        monkeypatch.undo()
        assert [path.name[-4:-3] for path in list_checkpoints(tmp_path / "run/checkpoints")] == ["2"]
        assert checkpoint(tmp_path / "run", 2)["owed"]
    go_on(tmp_path, **options)


def test_a_run_that_owes_no_validation_any_more_stops_when_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_call(monkeypatch, validation_module, "psnr", 2, ask(signal.SIGTERM))
    assert train(tiny(tmp_path, val_every=2, steps=9)) == 0
    monkeypatch.undo()
    assert train(tiny(tmp_path, val_every=0, steps=9), callback=lambda step, loss: step == 4) == 0
    assert not checkpoint(tmp_path / "run", 4)["owed"]
    assert column(tmp_path / "run", "step")[-1] == "4"


def test_a_last_validation_that_no_interval_asked_for_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one when the time is up."""
    options: dict[str, Any] = {"val_every": 100, "steps": 9}
    at_call(monkeypatch, validation_module, "psnr", 2, ask(signal.SIGTERM))
    assert train(tiny(tmp_path, stop_after_minutes=1e-9, **options)) == 0
    monkeypatch.undo()
    stopped = int(list_checkpoints(tmp_path / "run/checkpoints")[-1].stem[-8:])
    assert checkpoint(tmp_path / "run", stopped)["owed"]
    assert train(tiny(tmp_path, **options), callback=lambda step, loss: True) == 0
    scored = dict(zip(column(tmp_path / "run", "step"), column(tmp_path / "run", "val_psnr"), strict=True))
    assert scored[str(stopped)]


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_while_saving_is_a_wish_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    at_call(monkeypatch, torch, "save", at, ask(signal.SIGTERM))
    assert train(tiny(tmp_path, checkpoint_every=1, steps=9, keep=9)) == 0
    monkeypatch.undo()
    assert column(tmp_path / "run", "step")[-1] == str(at + 1)
    assert [int(p.stem[-8:]) for p in list_checkpoints(tmp_path / "run/checkpoints")] == list(range(1, at + 2))
    go_on(tmp_path, steps=at + 2)


def test_a_closed_terminal_stops_the_run_and_one_under_nohup_does_not_notice(tmp_path: Path) -> None:
    def hang_up(step: int, loss: float) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGHUP)

    assert train(tiny(tmp_path, steps=9), callback=hang_up) == 0
    assert column(tmp_path / "run", "step")[-1] == "2"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(tiny(tmp_path, steps=4, out=str(tmp_path / "nohup")), callback=hang_up) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert column(tmp_path / "nohup", "step")[-1] == "4"


def test_a_signal_whose_message_finds_no_reader_still_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "write", full)
    with StopSignals() as signals:
        signals.training()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.requested == "SIGTERM"


def test_a_child_that_ends_is_no_error_in_the_middle_of_something() -> None:
    """A DataLoader sets a handler that raises; it has to be back for others afterwards."""

    def raises(number: int, frame: object) -> None:
        raise RuntimeError("DataLoader worker is killed")

    before = signal.getsignal(signal.SIGCHLD)
    try:
        with StopSignals() as signals:
            signal.signal(signal.SIGCHLD, raises)
            signals.quiet_children()
            subprocess.run([sys.executable, "-c", ""], check=True)
        assert signal.getsignal(signal.SIGCHLD) is raises
    finally:
        signal.signal(signal.SIGCHLD, before if before is not None else signal.SIG_DFL)


def told_to_end() -> None:
    outlive_signals(0)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)
    os._exit(7 if signal.alarm(0) > 0 else 1)


def test_loader_processes_outlive_what_reaches_the_whole_group() -> None:
    process = multiprocessing.get_context("fork").Process(target=told_to_end)
    process.start()
    process.join()
    assert process.exitcode == 7


PHASES = """
import os, signal, sys, time, torch
import aminet_fast.training.validation as validation, aminet_fast.training.trainer as trainer
from aminet_fast.commands.cli import main
target, name, number, times = {"step": (trainer, "exchange", 3, 1), "validation": (validation, "psnr", 2, 1),
    "save": (torch, "save", 1, 1), "twice": (torch, "save", 2, 2)}[sys.argv.pop(1)]
function, calls = getattr(target, name), [0]
def watched(*args, **kwargs):
    calls[0] += 1
    if calls[0] == number:
        for _ in range(times):
            os.killpg(0, signal.SIGTERM)
            time.sleep(1)
    return function(*args, **kwargs)
setattr(target, name, watched)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["step", "validation", "save", "twice"])
def test_sigterm_to_the_group_in_each_phase(tmp_path: Path, phase: str) -> None:
    """With loader processes, which get it too; what is resumed is the run that nothing happened to."""
    options: dict[str, Any] = {"val_every": 2, "checkpoint_every": 2, "batch_size": 1, "steps": 8, "ema": 0.9}
    (tmp_path / "c.yaml").write_text(tiny(tmp_path, workers=2, **options).to_yaml())
    done = subprocess.run(
        [sys.executable, "-c", PHASES, phase, "train", "--config", str(tmp_path / "c.yaml")],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        timeout=240,
        start_new_session=True,
    )
    assert done.returncode == (-signal.SIGTERM if phase == "twice" else 0), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    newest = list_checkpoints(tmp_path / "run/checkpoints")[-1].name
    # In step 3 its message to the other processes had been written: they all stop after the next.
    assert newest == f"step-0000000{ {'step': 4, 'validation': 2, 'save': 3, 'twice': 2}[phase] }.pt"
    go_on(tmp_path, **options)


def test_clocks_that_jump_spoil_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The date set back while training, and a machine that slept for eight hours."""
    monotonic, wall, offset = time.monotonic, time.time, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + offset[0])
    monkeypatch.setattr(time, "time", lambda: wall() - 2 * offset[0])

    def sleep(step: int, loss: float) -> None:
        if step == 2:
            offset[0] = 8 * 3600.0

    assert train(tiny(tmp_path, keep=9, val_every=2), callback=sleep) == 0
    seconds = [float(value) for value in column(tmp_path / "run", "seconds")]
    assert seconds == sorted(seconds)
    assert seconds[1] - seconds[0] < 3600 < seconds[-1]
    # the clock makes a checkpoint due (every 15 minutes), and the sleep counts: power may fail on waking
    assert int(list_checkpoints(tmp_path / "run/checkpoints")[0].stem[-8:]) in (2, 3)
    monkeypatch.undo()
    go_on(tmp_path, val_every=2)


def test_the_record_of_a_kill_is_passed_over(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=1))
    runs = tmp_path / "run/runs.jsonl"
    with runs.open("a") as file:
        file.write('{"started": "2026-')
    assert train(tiny(tmp_path, steps=2)) == 0
    lines = runs.read_text().splitlines()
    assert [json.loads(line)["step"] for line in (lines[0], lines[2])] == [0, 1]
