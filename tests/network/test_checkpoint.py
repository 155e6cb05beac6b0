"""Reading a checkpoint that is damaged or something else, and what reading one loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import AMINet, AMINetConfig
from aminet_fast.network import checkpoint
from aminet_fast.network.checkpoint import FORMAT, VERSION, CheckpointError, read_checkpoint


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"format": FORMAT, "version": VERSION, "w": torch.arange(1000.0)}, path)
    assert torch.equal(read_checkpoint(path)["w"], torch.arange(1000.0))
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(1000.0).numpy().tobytes()) + 100
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_foreign_and_newer_files_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of an aminet_fast training run"):
        read_checkpoint(path)
    torch.save({"format": "aminet_fast.checkpoint", "version": 99}, path)
    with pytest.raises(CheckpointError, match=r"format 99.*upgrade"):
        read_checkpoint(path)
    torch.save({"format": "aminet_fast.checkpoint", "version": 1, "x": Path("code")}, path)
    with pytest.raises(CheckpointError, match="does not load"):
        read_checkpoint(path)


@pytest.mark.parametrize("at", ["_check_archive", "torch.load"])
def test_a_file_that_its_run_deletes_meanwhile_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    path = tmp_path / "x.pt"
    torch.save({"format": FORMAT, "version": VERSION, "w": torch.arange(1000.0)}, path)
    reading = checkpoint.torch.load if at == "torch.load" else checkpoint._check_archive

    def deleted_just_before(*given: Any, **options: Any) -> Any:
        path.unlink()
        return reading(*given, **options)

    monkeypatch.setattr(f"{checkpoint.__name__}.{at}", deleted_just_before)
    assert torch.equal(read_checkpoint(path)["w"], torch.arange(1000.0))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*x\.pt"):
        read_checkpoint(path)


@pytest.mark.parametrize("version", [None, "1"])
def test_a_format_without_a_number_is_foreign(tmp_path: Path, version: Any) -> None:
    torch.save({"format": "aminet_fast.checkpoint", "version": version}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="no checkpoint of an aminet_fast training run"):
        read_checkpoint(tmp_path / "x.pt")


def test_weights_of_a_checkpoint_load_without_the_code_that_trained_them(tmp_path: Path) -> None:
    config = AMINetConfig(width=4, heads=(1, 1, 1, 1), hourglass_width=4)
    state = {"model_config": config.to_dict(), "model": AMINet(config).state_dict(), "ema": None}
    torch.save({"format": FORMAT, "version": VERSION, **state}, tmp_path / "x.pt")
    script = (
        "import sys; from aminet_fast import load_model; load_model(sys.argv[1])\n"
        "print(*(n for n in sys.modules if n.split('.')[0] == 'accelerate' or 'fast.training' in n))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "x.pt")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
