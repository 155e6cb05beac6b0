"""Rows of metrics.csv, and lines that nobody reads."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

import pytest

from aminet_fast.training.runs.logs import COLUMNS, MetricsCSV, RunLog, read_metrics


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


def test_a_reader_that_has_gone_does_not_end_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    log, (read, written) = RunLog(main=True), os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as gone, contextlib.suppress(BrokenPipeError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", gone)
        log.say("one")
        log.say("two")
    assert log.console.quiet
