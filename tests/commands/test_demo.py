"""The demonstration: what it leaves, what it promises, and what it does not remove."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aminet_fast.commands import demonstration as demo
from aminet_fast.commands.cli import main
from aminet_fast.data import DataConfig


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_the_photograph_is_better_than_bicubic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.photograph(tmp_path)
    assert f"at least {demo.PHOTOGRAPH_MARGIN:+.2f} dB was to be gained: yes" in capsys.readouterr().out
    monkeypatch.setattr(demo, "PHOTOGRAPH_MARGIN", 20.0)
    assert not demo.photograph(tmp_path)


@pytest.mark.slow
def test_it_leaves_its_pictures_and_fails_short_of_its_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "FACES", DataConfig(drawn=64, cache=str(tmp_path / "cache")))
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--steps", "2"]) == 1  # two steps learn nothing
    printed = capsys.readouterr().out
    assert "64 drawn faces" in printed
    assert f"at least {demo.MARGIN:+.2f} dB was to be gained: NO" in printed
    fast, plain, ratio = re.search(r"takes (\S+) s with .* (\S+) s in plain PyTorch: (\S+) times", printed).groups()
    assert float(ratio) == pytest.approx(float(plain) / float(fast), abs=0.1)
    for picture in ("demo/plot.png", "demo-photograph/panel.png", "demo-photograph/upscaled/face.png"):
        assert (tmp_path / picture).stat().st_size > 1000, picture
    assert main(["demo", "--out", str(out), "--steps", "1"]) == 1  # an earlier demonstration makes room
