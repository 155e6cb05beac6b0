"""What a run does when the disk is full, read-only or gone."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aminet_fast.training import train
from aminet_fast.training.runs.logs import Lines, MetricsCSV, read_metrics
from aminet_fast.training.trainer import DivergedError
from tests.training.tiny import column, full, tiny


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
    for module in ("recorder", "run"):
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
