"""Files whose names are no text: Latin-1 bytes out of an old archive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aminet_fast.commands.cli import main
from aminet_fast.data import DataConfig, open_faces
from aminet_fast.evaluate import EvaluateConfig, evaluate
from tests.harness.bad_files import ramp
from tests.restoration.inputs import save_network

NAMES = [b"caf\xe9.png", b"na\xefve.png", b"plain.png"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    for name in NAMES:
        try:
            ramp(130, 130).rotate(len(name)).save(folder / os.fsdecode(name))
        except OSError:
            pytest.skip("this file system takes no such names")
    return folder


def test_a_set_with_such_names_is_read_drawn_from_and_scored(tmp_path: Path, root: Path) -> None:
    config = DataConfig(root=str(root), cache=str(tmp_path / "cache"))
    assert open_faces(config, "all").names == [os.fsdecode(name) for name in NAMES]
    assert len(open_faces(DataConfig(root=str(root), cache=str(tmp_path / "cache"), limit=2), "all").names) == 2
    out = tmp_path / "scores"
    assert evaluate(EvaluateConfig(data=config, split="all", out=str(out), metrics="psnr", resamples=10)) == 0
    rows = (out / "scores_fsr.csv").read_bytes().splitlines()
    assert [row.split(b",")[0] for row in rows[1:]] == NAMES


def test_the_commands_print_them(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / os.fsdecode(b"b\xe4d.png")).write_bytes(b"no picture")
    assert main(["data", str(root)]) in (0, 1)
    assert "is no picture that Pillow knows" in capsys.readouterr().out
    weights = save_network(tmp_path / "net")
    (root / os.fsdecode(b"b\xe4d.png")).unlink()
    out = tmp_path / "out"
    options = ["--weights", weights, "--out", str(out), "--lr_size", "8", "--panel", str(tmp_path / "panel.png")]
    assert main(["upscale", str(root), *options]) == 0
    assert sorted(os.fsencode(path.name) for path in out.iterdir()) == NAMES
