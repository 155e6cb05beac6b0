"""Checkpoints, weights and configurations that hold code, lack something, or are something else."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import load_model
from aminet_fast.commands.cli import main
from aminet_fast.network.checkpoint import RUN, CheckpointError, read_checkpoint
from aminet_fast.training import train
from aminet_fast.training.runs.checkpoint import newest_checkpoint
from tests.training.tiny import tiny


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
        "old.pt": r"it would run code \(\w+\.system\).*Nothing in it was executed",
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
    picture = next((Path(__file__).parents[2] / "docs/images").glob("*.png"))
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


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, trained: Path) -> None:
    state = torch.load(trained / "checkpoints/step-00000001.pt", weights_only=True)
    torch.save({**state, "model": {}}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"step 1 does not fit this run: these weights are not those"):
        train(tiny(tmp_path, resume=str(tmp_path / "x.pt")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "is no JSON"),
        (b"\xff\xfe\x00", "is no UTF-16 text"),
        (b'{"width": 4, "width": 8}', "gives width twice, on line 1 and on line 1"),
        (b"[1, 2]", "holds no mapping of options"),
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
