from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aminet_fast.metrics.panel import save_panel

HEADER, GAP = 21, 4


def test_layout_and_pixels(tmp_path: Path) -> None:
    lr = torch.full((2, 3, 2, 2), -1.0)
    lr[0, 0, 0, 0] = 1.0  # one red LR pixel
    hr = torch.full((2, 3, 16, 16), 0.0)
    save_panel(tmp_path / "p.png", {"LR": lr, "HR": hr}, scale=2)
    sheet = np.asarray(Image.open(tmp_path / "p.png"))
    assert sheet.shape == (HEADER + 2 * (32 + GAP), GAP + 2 * (32 + GAP), 3)
    first = sheet[HEADER : HEADER + 32, GAP : GAP + 32]
    assert (first[:16, :16] == (255, 0, 0)).all()
    assert (first[16:] == 0).all()
    assert (first[:, 16:] == 0).all()
    assert (sheet[HEADER : HEADER + 32, 2 * GAP + 32 : 2 * GAP + 64] == 128).all()
    assert (sheet[HEADER : HEADER + 32, GAP + 32 : 2 * GAP + 32] == 255).all()


def test_labels_and_names_are_written(tmp_path: Path) -> None:
    x = torch.ones(2, 3, 64, 64)
    save_panel(tmp_path / "labels.png", {"bicubic": x, "AMINet": x})
    save_panel(tmp_path / "named.png", {"bicubic": x, "AMINet": x}, names=["a.png", "a long name " * 20])
    plain, named = (np.asarray(Image.open(tmp_path / f)) for f in ("labels.png", "named.png"))
    middle = plain.shape[1] // 2
    assert (plain[:HEADER, :middle] < 128).any()
    assert (plain[:HEADER, middle:] < 128).any()
    assert (plain[HEADER:] == 255).all()  # white pictures on a white sheet: no text among them
    assert named.shape[0] == plain.shape[0] + 2 * 17
    assert (named[HEADER + 64 : HEADER + 64 + 17] < 128).any()


def test_out_of_range_is_clamped_and_any_name_prints(tmp_path: Path) -> None:
    x = torch.full((1, 3, 16, 16), 5.0)
    x[0, :, 0, 0] = float("nan")
    save_panel(tmp_path / "deep" / "p.jpg", {"λόγος 顔": x.bfloat16()}, names=["面.png"])
    with Image.open(tmp_path / "deep" / "p.jpg") as sheet:
        assert sheet.format == "JPEG"
        assert sheet.getpixel((GAP + 12, HEADER + 12)) == (255, 255, 255)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["p.jpg"]


def test_bad_arguments_leave_no_file(tmp_path: Path) -> None:
    x = torch.zeros(2, 3, 8, 8)
    with pytest.raises(ValueError, match="at least one column"):
        save_panel(tmp_path / "p.png", {})
    with pytest.raises(ValueError, match=r"\{'a': 2, 'b': 1\}"):
        save_panel(tmp_path / "p.png", {"a": x, "b": x[:1]})
    with pytest.raises(ValueError, match="2 rows, got 1"):
        save_panel(tmp_path / "p.png", {"a": x}, names=["one"])
    with pytest.raises(ValueError, match=r"'p.bmpx'.*\.png"):
        save_panel(tmp_path / "p.bmpx", {"a": x})
    with pytest.raises(ValueError, match=r"got shape \(2, 1, 8, 8\)"):
        save_panel(tmp_path / "p.png", {"a": x[:, :1]})
    with pytest.raises(ValueError, match="got 0"):
        save_panel(tmp_path / "p.png", {"a": x}, scale=0)
    assert list(tmp_path.iterdir()) == []
