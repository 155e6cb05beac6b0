"""What a run loses, and says, when disks fill, files are not what they seem, signals come and processes are killed."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from training_tiny import checkpoint, column, tiny, unequal

from aminet_fast import load_model
from aminet_fast.cli import main
from aminet_fast.training import loop, train
from aminet_fast.training import trainer as trainer_module
from aminet_fast.training import validation as validation_module
from aminet_fast.training.checkpoint import RUN, CheckpointError, list_checkpoints, newest_checkpoint, read_checkpoint
from aminet_fast.training.divergence import DivergedError
from aminet_fast.training.folder import Lines
from aminet_fast.training.loader_faults import LoaderError, explain
from aminet_fast.training.logs import RunLog
from aminet_fast.training.metrics_csv import MetricsCSV, read_metrics
from aminet_fast.training.signals import StopSignals, outlive_signals

STATE = ("step", "model", "optimizer", "ema", "rng", "loss_sum", "loss_count", "best")
NUMBERS = ("step", "loss", "lr", "val_psnr", "val_ssim")


def full(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file grows beyond ``size`` bytes: the system itself refuses, in the middle of a write too."""
    resource = pytest.importorskip("resource", reason="needs a Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# Disks


def test_a_line_that_found_no_room_is_written_before_the_next(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "lines")
    lines.write("a" * 9)
    with small_files(15), pytest.raises(OSError, match="too large"):
        lines.write("b" * 9)
    assert lines.path.read_text() == "a" * 9 + "\n"
    lines.write("c")
    assert lines.path.read_text().split() == ["a" * 9, "b" * 9, "c"]


def test_rows_and_log_lines_outlast_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stack = contextlib.ExitStack()

    def hinder(step: int, loss: float) -> None:
        if step == 1:
            stack.enter_context(small_files(150))
        if step == 4:
            stack.close()

    with stack:
        assert train(tiny(tmp_path, steps=6, panel_every=1), callback=hinder) == 0
    assert column(tmp_path / "run", "step") == ["1", "2", "3", "4", "5", "6"]
    assert "" not in column(tmp_path / "run", "loss")
    log = (tmp_path / "run/log.txt").read_text()
    assert all(f"step {step}/6" in log for step in range(1, 7))
    assert "could not write metrics.csv at step 2" in log
    assert "cannot write" in capsys.readouterr().out
    assert sorted(p.name[12] for p in (tmp_path / "run/panels").iterdir()) == ["4", "5", "6"]


def test_the_last_row_waits_no_longer_than_for_the_checkpoint(tmp_path: Path) -> None:
    table = MetricsCSV(tmp_path / "metrics.csv")
    table.open(0)
    with small_files(120), pytest.raises(OSError, match="too large"):
        table.write({"step": 1, "loss": 1 / 3})
    assert read_metrics(table.path) == []
    table.sync()
    assert [float(row["loss"]) for row in read_metrics(table.path)] == [1 / 3]


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_a_start_on_a_full_or_read_only_disk_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    def refuse(*args: Any) -> Any:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync" if reason == errno.ENOSPC else "open", refuse)
    with pytest.raises(OSError, match=f"cannot write the run folder .*run: {os.strerror(reason)}"):
        train(tiny(tmp_path))
    monkeypatch.undo()
    assert train(tiny(tmp_path, steps=1)) == 0


def test_a_step_that_is_not_finite_is_told_on_a_full_disk(tmp_path: Path) -> None:
    """torch.save has an error of its own for a disk that fills while it writes."""
    stack = contextlib.ExitStack()
    with stack, pytest.raises(DivergedError, match=r"faces could not be written .*Start again"):
        train(
            tiny(tmp_path, lr=1e38, betas=[0.0, 0.0], checkpoint_every=1, steps=9),
            callback=lambda step, loss: stack.enter_context(small_files(2000)) if step == 1 else None,
        )


class Board:
    """TensorBoard's writer on a disk that is full at steps 2 and 3."""

    opened: list[int] = []  # noqa: RUF012
    shown: list[tuple[str, int]] = []  # noqa: RUF012

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.opened.append(purge_step or 0)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if step in (2, 3):
            full()
        self.shown.append((name, step))

    def close(self) -> None: ...


def test_tensorboard_goes_on_when_there_is_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("recorder", "loop"):
        monkeypatch.setattr(f"aminet_fast.training.{module}.tensorboard_writer", lambda: Board)
    assert train(tiny(tmp_path, steps=6, tensorboard=True, checkpoint_every=4)) == 0
    assert Board.opened == [0, 5]
    assert [step for name, step in Board.shown if name == "loss"] == [1, 5, 6]
    assert capsys.readouterr().out.count("could not write TensorBoard's events") == 1


class Gone:
    """Standard output whose disk is full, or whose terminal was closed."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        return full()

    def flush(self) -> None:
        full()

    def isatty(self) -> bool:
        return False


def test_standard_output_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    assert train(tiny(tmp_path, steps=2)) == 0
    assert "complete: 2 steps" in (tmp_path / "run/log.txt").read_text()


def test_a_reader_that_has_gone_does_not_end_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    log, (read, written) = RunLog(main=True), os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as gone, contextlib.suppress(BrokenPipeError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        log.say("one")
        log.say("two")
    assert log.console.quiet


# Files from elsewhere


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that nobody changes."""
    folder = tmp_path_factory.mktemp("trained")
    train(tiny(folder, steps=1))
    return folder / "run"


def hostile(folder: Path, good: Path, mark: Path) -> dict[str, str]:
    """Files that run a command when they are unpickled, and what is said of each."""
    state, evil = torch.load(good, weights_only=True), Evil(mark)
    torch.save({**state, "x": evil}, folder / "archive.pt")
    torch.save({**state, "x": evil}, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "pickle.pt").write_bytes(pickle.dumps(evil))
    with zipfile.ZipFile(folder / "packed.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickle.dumps(evil))
    return {
        "archive.pt": r"it would run code \(\w+\.system\).*Nothing in it was executed",
        "old.pt": "no checkpoint",
        "pickle.pt": "no checkpoint",
        "packed.pt": "its contents are compressed",
    }


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mark = tmp_path / "mark"
    expected = hostile(tmp_path, trained / "checkpoints/step-00000001.pt", mark)
    torch.load(tmp_path / "archive.pt", weights_only=False)
    assert mark.exists()  # it does what it is here for, where it is trusted
    mark.unlink()
    for name, said in expected.items():
        with pytest.raises(CheckpointError, match=said):
            read_checkpoint(tmp_path / name)
        with pytest.raises(CheckpointError, match=said):
            load_model(tmp_path / name)
        folder = tmp_path / f"renamed-{name}"
        shutil.copytree(trained / "last", folder)
        shutil.copy(tmp_path / name, folder / "model.safetensors")
        with pytest.raises(ValueError, match="no readable safetensors file"):
            load_model(folder)
    picture = next((Path(__file__).parent.parent / "docs/images").glob("*.png"))
    weights = str(tmp_path / "archive.pt")
    for arguments in (
        ["upscale", str(picture), "--weights", weights, "--out", str(tmp_path / "out")],
        ["evaluate", "--weights", weights, "--data.limit", "2", "--data.cache", str(tmp_path.parent / "faces")],
        ["train", "--resume", weights, "--out", str(tmp_path / "new")],
    ):
        assert main(arguments) == 2
        assert "Nothing in it was executed" in capsys.readouterr().err
    assert not mark.exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", RUN)
def test_a_checkpoint_names_what_it_lacks(tmp_path: Path, trained: Path, name: str) -> None:
    state = torch.load(trained / "checkpoints/step-00000001.pt", weights_only=True)
    assert set(RUN) <= set(state)
    path = tmp_path / "step-00000001.pt"
    torch.save({**state, name: b"x"}, path)
    with pytest.raises(CheckpointError, match=f"no {name} of the right kind"):
        read_checkpoint(path, RUN)
    with pytest.raises(CheckpointError, match=f"no whole checkpoint in .*no {name} of"):
        newest_checkpoint(tmp_path, lambda text: None, RUN)


@pytest.mark.parametrize("version", [None, "1"])
def test_a_format_without_a_number_is_foreign(tmp_path: Path, version: Any) -> None:
    torch.save({"format": "aminet_fast.checkpoint", "version": version}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of an aminet_fast training run"):
        read_checkpoint(tmp_path / "x.pt")


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, trained: Path) -> None:
    state = torch.load(trained / "checkpoints/step-00000001.pt", weights_only=True)
    torch.save({**state, "model": {}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"step 1 does not fit this run: these weights are not those"):
        train(tiny(tmp_path, resume=str(tmp_path / "x.pt")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON"),
        (b"[1, 2]", "no mapping of its fields"),
        (b'{"width": "4"}', "width is '4'"),
        (b'{"colour": 4}', "no field colour"),
    ],
)
def test_a_config_beside_weights_that_is_none(tmp_path: Path, trained: Path, text: bytes, said: str) -> None:
    shutil.copytree(trained / "last", tmp_path / "w")
    (tmp_path / "w/config.json").write_bytes(text)
    with pytest.raises(ValueError, match=said) as caught:
        load_model(tmp_path / "w")
    assert "config.json" in str(caught.value)


# Faces


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
def test_what_is_said_of_a_loader(tmp_path: Path, error: Exception, ended: list[int], said: str) -> None:
    text = explain(error, ended, tiny(tmp_path, workers=3))
    with pytest.raises(LoaderError, match=said):
        raise LoaderError(text)
    assert "\n" not in text


def go_on(tmp_path: Path, **options: Any) -> None:
    """Finish the run in ``tmp_path``; it has to be the one that nothing happened to."""
    assert train(tiny(tmp_path, **options)) == 0
    whole = tiny(tmp_path, out=str(tmp_path / "whole"), **{**options, "workers": 0})
    assert train(whole) == 0
    a, b = ({n: checkpoint(run, whole.steps or 0)[n] for n in STATE} for run in (tmp_path / "run", whole.out))
    assert unequal(a, b) == []
    for name in NUMBERS:
        assert column(tmp_path / "run", name) == column(str(whole.out), name), name


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
            session = loop._session
            patch.setattr(loop, "_session", lambda *args: (session(*args), harm())[0])
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


# Signals


def at_call(monkeypatch: pytest.MonkeyPatch, target: Any, name: str, number: int, act: Callable[[], None]) -> None:
    """Do something at the ``number``-th call of a function."""
    function, calls = getattr(target, name), [0]

    def watched(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            act()
        return function(*args, **kwargs)

    monkeypatch.setattr(target, name, watched)


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
    at_call(monkeypatch, loop, "open_faces", 1, ask(number))
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
from aminet_fast.cli import main
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
    assert newest == f"step-0000000{ {'step': 3, 'validation': 2, 'save': 3, 'twice': 2}[phase] }.pt"
    go_on(tmp_path, **options)


# Clocks


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
