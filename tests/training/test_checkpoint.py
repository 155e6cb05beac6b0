"""Checkpoints of a run folder, on disks that fill up and in files that were cut."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import load_model
from aminet_fast.network.checkpoint import CheckpointError, read_checkpoint
from aminet_fast.training import train
from aminet_fast.training.runs import folder as folder_module
from aminet_fast.training.runs.checkpoint import list_checkpoints, newest_checkpoint, save_checkpoint
from aminet_fast.training.runs.folder import RunFolder, write_folder
from tests.training.tiny import checkpoint, column, tiny


def full(tmp_path: Path, steps: tuple[int, ...] = (1, 2)) -> Path:
    for step in steps:
        save_checkpoint(tmp_path, {"step": step, "w": torch.arange(1000.0)}, keep=9)
    return tmp_path / f"step-{steps[-1]:08d}.pt"


def test_round_trip_and_keep(tmp_path: Path) -> None:
    full(tmp_path, (1, 2, 3))
    save_checkpoint(tmp_path, {"step": 10, "w": torch.ones(2)}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-00000003.pt", "step-00000010.pt"]
    assert len(list(tmp_path.iterdir())) == 2
    assert torch.equal(read_checkpoint(tmp_path / "step-00000010.pt")["w"], torch.ones(2))


@pytest.mark.parametrize("kept", [0, 10, 500, 3000])
def test_cut_newest_is_skipped_with_a_warning(tmp_path: Path, kept: int) -> None:
    newest = full(tmp_path)
    newest.write_bytes(newest.read_bytes()[:kept])
    warnings: list[str] = []
    found = newest_checkpoint(tmp_path, warnings.append)
    assert found is not None
    assert found[1]["step"] == 1
    assert len(warnings) == 1
    assert "step-00000002.pt" in warnings[0]


def test_without_a_whole_one_there_is_an_error(tmp_path: Path) -> None:
    full(tmp_path, (1,)).write_bytes(b"no zip")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        newest_checkpoint(tmp_path, lambda text: None)


def test_a_newer_format_is_not_skipped(tmp_path: Path) -> None:
    full(tmp_path, (1,))
    torch.save({"format": "aminet_fast.checkpoint", "version": 99}, tmp_path / "step-00000002.pt")
    with pytest.raises(CheckpointError, match=r"format 99.*upgrade"):
        newest_checkpoint(tmp_path, lambda text: None)


def enospc(*args: Any, **kwargs: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_while_writing_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = full(tmp_path)
    before = newest.read_bytes()
    monkeypatch.setattr(os, "fsync", enospc)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"step": 2, "w": torch.zeros(3)}, keep=1)
    assert newest.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000001.pt", "step-00000002.pt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_full_disk_under_torch_save_is_an_oserror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's zip writer raises its own errors over the file's."""
    fdopen = os.fdopen

    def to_full(descriptor: int, mode: str) -> Any:
        os.close(descriptor)
        return fdopen(os.open("/dev/full", os.O_RDWR), mode, buffering=0)

    monkeypatch.setattr(os, "fdopen", to_full)
    with pytest.raises(OSError, match=r"No space left|disk full"):
        save_checkpoint(tmp_path, {"step": 1, "w": torch.zeros(100_000)}, keep=1)
    assert list(tmp_path.iterdir()) == []


def test_training_goes_on_over_a_full_disk_and_its_end_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, checkpoint_every=1, keep=9)
    steps: list[int] = []

    def fill_the_disk(step: int, loss: float) -> None:
        steps.append(step)
        if step == 2:
            monkeypatch.setattr(os, "fsync", enospc)
        if step == 3:
            monkeypatch.undo()

    assert train(config, callback=fill_the_disk) == 0
    assert steps == [1, 2, 3, 4]
    assert [p.stem[-1] for p in list_checkpoints(tmp_path / "run/checkpoints")] == ["1", "3", "4"]
    assert "could not write checkpoint at step 2" in capsys.readouterr().out
    assert not list((tmp_path / "run").rglob(".tmp-*"))

    steps.clear()
    again = tiny(tmp_path, steps=6)
    assert train(again, callback=lambda step, loss: monkeypatch.setattr(os, "fsync", enospc)) == 1
    assert checkpoint(again.out, 4)["step"] == 4
    assert load_model(tmp_path / "run/last").config.width == 4


def test_training_goes_on_when_only_small_files_can_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a full disk, but by the system itself: torch reports it in its own way."""
    resource = pytest.importorskip("resource", reason="needs a Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def hinder(step: int, loss: float) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]) if step == 1 else before)

    config = tiny(tmp_path, steps=3, checkpoint_every=1, val_every=1)
    try:
        assert train(config, callback=hinder) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.stem[-1] for p in list_checkpoints(tmp_path / "run/checkpoints")] == ["2", "3"]
    printed = capsys.readouterr().out
    for what in ("checkpoint", "last/", "best/"):
        assert f"could not write {what} at step 1" in printed
    assert checkpoint(config.out, 3)["best"] == max(float(v) for v in column(config.out, "val_psnr")[1:])
    assert load_model(tmp_path / "run/last").config.width == 4


def test_folder_swap_survives_a_crash_between_its_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    run.prepare()
    run.release()
    write_folder(run.best, lambda f: (f / "x").write_text("old"))
    write_folder(run.best, lambda f: (f / "x").write_text("new"))
    assert (run.best / "x").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "best", "checkpoints", "panels"]
    run.best.rename(tmp_path / ".best.old")  # as a kill leaves it
    (tmp_path / ".tmp-abc").mkdir()
    run.prepare()
    run.release()
    assert (run.best / "x").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "best", "checkpoints", "panels"]

    monkeypatch.setattr(folder_module, "_sync", enospc)
    with pytest.raises(OSError, match="No space"):
        write_folder(run.best, lambda f: (f / "x").write_text("third"))
    assert (run.best / "x").read_text() == "new"
