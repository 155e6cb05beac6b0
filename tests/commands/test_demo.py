"""The demonstration: what it leaves, what it promises, and what it does not remove."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast.commands import demonstration as demo
from aminet_fast.commands.cli import main
from aminet_fast.data import DataConfig, sample_scene


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("three years")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "no run folder" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "three years"


def test_the_photograph_is_better_than_bicubic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.face(tmp_path)
    assert f"at least {demo.FACE_MARGIN:+.2f} dB was to be gained: yes" in capsys.readouterr().out
    monkeypatch.setattr(demo, "FACE_MARGIN", 20.0)
    assert not demo.face(tmp_path)


class Idle(nn.Module):
    """Adds nothing to what it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_the_faces_of_the_scene_are_found_and_a_network_that_adds_nothing_is_short_of_the_margin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("aminet_fast.restoration.photographs.load_network", lambda *place: Idle())
    assert not demo.scene(tmp_path)
    printed = capsys.readouterr().out
    assert "200x150 with 12 small faces" in printed
    assert "12 found, 12 restored" in printed
    assert f"at least {demo.SCENE_MARGIN:+.2f} dB was to be gained: NO" in printed
    sizes = {"scene.png": (200, 150), "restored/scene.png": (800, 600), "restored.png": (1612, 625)}
    for name, size in sizes.items():
        with Image.open(tmp_path / name) as image:
            assert image.size == size, name


def test_the_gain_on_the_scene_is_of_faces_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A result that has the original's faces and a black board passes by far, and the other way round it fails."""
    there = sample_scene()
    monkeypatch.setattr(demo, "sample_scene", lambda: there)
    faces, board = (Image.new("RGB", there.original.size), there.original.copy())
    for points in there.points:
        box = demo._around(points, 4)
        faces.paste(there.original.crop(box), box)
        board.paste((0, 0, 0), box)
    for result, held in ((faces, True), (board, False)):
        monkeypatch.setattr(demo, "_restore_file", lambda source, folder, result=result: (result, 12, 12))
        assert demo.scene(tmp_path) is held
    assert capsys.readouterr().out.count("to be gained: NO") == 1


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
    assert "12 found, 12 restored; on these faces\n" in printed
    assert f"at least {demo.SCENE_MARGIN:+.2f} dB was to be gained: yes" in printed
    assert (out / "plot.png").stat().st_size > 1000
    for picture in ("restored.png", "restored/scene.png", "panel.png", "upscaled/face.png"):
        assert (tmp_path / "demo-photograph" / picture).stat().st_size > 1000, picture
    assert main(["demo", "--out", str(out), "--steps", "1"]) == 1  # an earlier demonstration makes room
