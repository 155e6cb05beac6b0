"""The panel of ``aminet upscale``: which pictures it shows, and what it never replaces."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aminet_fast.restoration import files, upscale
from tests.restoration.inputs import command, faces, noise


def test_a_panel_never_replaces_an_input_or_a_result(tmp_path: Path, weights: str) -> None:
    root = faces(tmp_path / "in", "a.png")
    before = (root / "a.png").read_bytes()
    for panel, what in ((root / "a.png", "an input"), (tmp_path / "out" / "a.png", "a result")):
        with pytest.raises(ValueError, match=f"would overwrite {what}; choose another --panel"):
            upscale(command(tmp_path, weights, root, panel=str(panel), force=True))
    assert (root / "a.png").read_bytes() == before
    assert not (tmp_path / "out" / "a.png").exists()


def test_a_panel_shows_an_original_only_where_there_is_one(tmp_path: Path, weights: str) -> None:
    (tmp_path / "in").mkdir()
    noise(40, 40).save(tmp_path / "in" / "big.png")
    noise(10, 10).save(tmp_path / "in" / "small.png")  # not shrunk: its own pixels are no original of the result
    panel = tmp_path / "panel.png"
    assert upscale(command(tmp_path, weights, tmp_path / "in", lr_size=10, panel=str(panel))) == 0
    with Image.open(panel) as sheet:
        column = np.asarray(sheet)[:, 4 + 3 * (80 + 4) : 4 + 3 * (80 + 4) + 80]
    assert column[60].std() > 20  # inside big.png's row
    assert (column[-60] == 255).all()
    panel.unlink()
    (tmp_path / "in" / "big.png").unlink()
    assert upscale(command(tmp_path, weights, tmp_path / "in", lr_size=10, panel=str(panel), force=True)) == 0
    with Image.open(panel) as sheet:
        assert sheet.width == 4 + 3 * (80 + 4)


def test_a_panel_shows_results_that_were_there_already(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same panel, byte for byte, whichever of its pictures an earlier run did."""
    names = [f"{n}.png" for n in range(10)]
    root, out, panel = tmp_path / "in", tmp_path / "out", tmp_path / "panel.png"
    root.mkdir()
    for n, name in enumerate(names):
        noise(12, 9, "RGBA" if n == 1 else "RGB", seed=n).save(root / name)
    assert upscale(command(tmp_path, weights, root, lr_size=4, panel=str(panel))) == 0
    whole = panel.read_bytes()
    for missing in ([], ["0.png", "3.png", "9.png"], ["8.png"], names):
        panel.unlink()
        for name in missing:
            (out / name).unlink()
        assert upscale(command(tmp_path, weights, root, lr_size=4, panel=str(panel), skip_existing=True)) == 0
        assert panel.read_bytes() == whole
        assert f"side by side: {panel}" in capsys.readouterr().out

    # What cannot be shown makes room for the next, and is no failure.
    panel.unlink()
    (out / "2.png").write_bytes(b"no picture")
    noise(8, 8).save(out / "4.png")
    added: list[str] = []
    real = files.PanelRows.add
    monkeypatch.setattr(
        files.PanelRows, "add", lambda rows, job, *rest: [added.append(job.source.name), real(rows, job, *rest)]
    )
    assert upscale(command(tmp_path, weights, root, lr_size=4, panel=str(panel), skip_existing=True)) == 0
    printed = capsys.readouterr().out
    assert f"nothing left to do: 10 results were there already, in {out}" in printed
    assert f"note: 2 x left out of the panel: {out}/2.png: is no picture that Pillow knows" in printed
    assert f"; {out}/4.png: has 8x8 pixels, and these options give 40x32\n" in printed
    assert added == [name for name in names if name not in ("2.png", "4.png")]
    panel.unlink()
    assert upscale(command(tmp_path, weights, root, lr_size=3, panel=str(panel), skip_existing=True)) == 0
    printed = capsys.readouterr().out
    assert f"no panel {panel}: there is no picture to show\n" in printed
    assert "note: 8 x left out of the panel: " in printed
    assert "; and 3 more\n" in printed
    assert not panel.exists()
    with pytest.raises(ValueError, match="would overwrite a result; choose another --panel"):
        upscale(command(tmp_path, weights, root, panel=str(out / "0.png"), skip_existing=True))


def test_a_panel_that_cannot_be_written_is_named(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out, panel = faces(tmp_path / "in", "a.png", "b.png"), tmp_path / "out", tmp_path / "panel.png"
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert upscale(command(tmp_path, weights, root, panel=str(panel))) == 1
    error = capsys.readouterr().err
    assert f"error: cannot write the panel {panel}: the disk is full (No space left on device); free some" in error
    assert f"2 of 2 pictures had been written to {out}; the same command with --skip_existing makes the panel" in error
    assert upscale(command(tmp_path, weights, root, panel=str(panel), skip_existing=True)) == 1
    assert "2 results were there already; the same command makes the panel" in capsys.readouterr().err
    monkeypatch.setattr(os, "fsync", real)
    assert upscale(command(tmp_path, weights, root, panel=str(panel), skip_existing=True)) == 0
    assert panel.exists()
    calls.clear()
    monkeypatch.setattr(os, "fsync", full)
    assert upscale(command(tmp_path, weights, root, panel=str(panel), force=True)) == 1
    how = f"with --skip_existing in place of --force makes the panel when the older {panel} is removed"
    assert f"the same command {how}\n" in capsys.readouterr().err
