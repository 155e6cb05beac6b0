"""Tables in files and pipes, which have no width."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from aminet_fast.commands.cli import main
from aminet_fast.output.console import make_console, print_table
from aminet_fast.profiling import report
from tests.harness.bad_files import ramp

LONG = "a/path/that/is/wider/than/any/terminal/" * 8


@pytest.fixture(params=["COLUMNS=40", "TERM=dumb", "NO_COLOR=1"], autouse=True)
def environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*request.param.split("="))


def whole(text: str) -> list[str]:
    lines = text.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert "…" not in text
    return lines


def test_no_line_of_info_is_padded_or_broken(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = whole(capsys.readouterr().out)
    assert lines[0].split()[:2] == ["versions", "aminet_fast"]
    assert not [line for line in lines if len(line.split("  ")[-1]) > 330]


def test_tables_keep_their_cells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ramp(130, 130).save(tmp_path / "face.png")
    assert main(["data", str(tmp_path), "--crop", "100"]) == 0
    lines = whole(capsys.readouterr().out)
    assert lines[0] == str(tmp_path)  # a title would be broken to the table's width
    assert [line for line in lines if "1 (smaller than 128x128)" in line]
    common = ["--data.cache", str(tmp_path / "cache"), "--data.size", "48", "--data.limit", "2", "--resamples", "10"]
    assert main(["evaluate", *common]) == 0
    lines = whole(capsys.readouterr().out)
    assert [line for line in lines if line.count("[") == 2 and line.count("]") == 2]  # both intervals


def test_a_terminal_that_has_no_such_letters(tmp_path: Path) -> None:
    table = Table("one", LONG)
    table.add_row("x", "wörld ✓")
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii", errors="backslashreplace")
    print_table(Console(file=file, width=1000), table)
    file.flush()
    text = raw.getvalue().decode("ascii")
    assert LONG in text
    assert "w\\xf6rld \\u2713" in text
    whole(text)


def test_a_profile_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    figures = report.Figures({"loader": 0.1, "forward": 0.2}, 0.0, 4, 90.0, 0, 2, None, 0.1, 0, 0, "cpu")
    report.show(figures, make_console())
    whole(capsys.readouterr().out)
