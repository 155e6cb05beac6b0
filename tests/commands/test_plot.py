"""aminet plot: curves of metrics.csv."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from aminet_fast.commands.plot import PlotConfig, plot
from aminet_fast.training import curves as plot_module
from aminet_fast.training.runs.logs import MetricsCSV

pytest.importorskip("matplotlib", reason="needs the extra [plot]")


def run(folder: Path, rows: int = 6) -> Path:
    folder.mkdir(parents=True)
    table = MetricsCSV(folder / "metrics.csv")
    table.open(0)
    for step in range(1, rows + 1):
        row = {"step": step, "loss": 1 / step}
        if step % 3 == 0:
            row |= {"val_psnr": 20 + step, "val_bicubic_psnr": 21.5}
        table.write(row)
    return folder


def test_one_run_is_drawn_into_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plot(PlotConfig([str(run(tmp_path / "a"))])) == 0
    out = tmp_path / "a/plot.png"
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.size == (1200, 480)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


def test_several_runs_in_one_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(tmp_path / name) for name in ("x/r", "y/r", "z")]
    drawn = {}
    monkeypatch.setattr(plot_module, "_draw", lambda curves, out, smooth: drawn.update(curves))
    plot(PlotConfig([str(runs[0]), str(runs[1] / "metrics.csv"), str(runs[2])], out=str(tmp_path / "all.svg")))
    assert list(drawn) == [str(runs[0]), str(runs[1]), "z"]
    assert drawn["z"]["val_psnr"] == [(3, 23.0), (6, 26.0)]
    assert drawn["z"]["val_bicubic_psnr"] == [(3, 21.5), (6, 21.5)]
    assert drawn["z"]["loss"][1] == (2, 0.5)


def test_svg_has_the_labels(tmp_path: Path) -> None:
    plot(PlotConfig([str(run(tmp_path / "a"))], out=str(tmp_path / "p.svg"), smooth=3))
    assert "training loss" in (tmp_path / "p.svg").read_text()


def test_what_cannot_be_drawn(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run at"):
        plot(PlotConfig([str(tmp_path / "gone")]))
    with pytest.raises(ValueError, match="no rows yet"):
        plot(PlotConfig([str(run(tmp_path / "empty", rows=0))]))
    with pytest.raises(ValueError, match="name run folders"):
        PlotConfig([])
    before = run(tmp_path / "b")
    with pytest.raises(ValueError, match="xyz"):
        plot(PlotConfig([str(before)], out=str(tmp_path / "p.xyz")))
    assert not (tmp_path / "p.xyz").exists()
    with pytest.raises(ValueError, match=r"is a folder; name the picture, as --out .*plot\.png"):
        plot(PlotConfig([str(before)], out=str(tmp_path)))


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'aminet-fast\[plot\]'"):
        plot(PlotConfig([str(run(tmp_path / "a"))]))
