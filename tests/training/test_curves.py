"""The library that draws a run's curves; `aminet plot` has tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from aminet_fast.training.curves import draw_curves
from aminet_fast.training.runs.logs import MetricsCSV

pytest.importorskip("matplotlib", reason="needs the extra [plot]")


def run(folder: Path) -> Path:
    folder.mkdir()
    table = MetricsCSV(folder / "metrics.csv")
    table.open(0)
    table.write({"step": 1, "loss": 0.5, "val_psnr": 21.0, "val_bicubic_psnr": 20.0})
    return folder


def test_it_says_where_the_picture_is_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = run(tmp_path / "one"), run(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert draw_curves([one]) == one / "plot.png"
    assert draw_curves([one / "metrics.csv"]) == one / "plot.png"
    assert draw_curves([one, other]) == Path("plot.png")
    assert draw_curves([one], tmp_path / "x.svg", smooth=3) == tmp_path / "x.svg"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "plot.png", "x.svg"]
    assert (one / "plot.png").is_file()
    assert capsys.readouterr().out == ""
