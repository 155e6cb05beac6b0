"""``aminet upscale``: which files it takes and writes, and what it says of those it cannot."""

from __future__ import annotations

import errno
import os
import signal
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from aminet_fast import AMINet, load_model
from aminet_fast.commands.cli import main
from aminet_fast.restoration import UpscaleConfig, files, upscale, upscale_images
from aminet_fast.restoration.files import save
from aminet_fast.restoration.plan import plan
from aminet_fast.restoration.sizes import refuse_too_large, shrunk
from tests.harness.bad_files import make_zoo, ramp
from tests.restoration.inputs import Lopsided, assert_same, bicubic, brightened, command, faces, noise


def test_command_writes_pictures_and_refuses_a_second_time(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = faces(tmp_path / "in", "a.png", "sub/b.jpg")
    config = command(tmp_path, weights, root, panel=str(tmp_path / "panel.png"))
    assert upscale(config) == 0
    assert "2 of 2 pictures upscaled" in capsys.readouterr().out
    model = AMINet.from_pretrained(weights)
    with Image.open(root / "a.png") as lr, Image.open(tmp_path / "out" / "a.png") as result:
        assert_same(result, upscale_images(model, [lr])[0])
    with Image.open(tmp_path / "out" / "sub" / "b.jpg") as result:
        assert (result.format, result.size) == ("JPEG", (48, 32))
    assert (tmp_path / "panel.png").exists()

    before = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    (tmp_path / "panel.png").unlink()
    with pytest.raises(ValueError, match="2 of 2 results exist already"):
        upscale(config)
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == before
    config.force = True
    assert upscale(config) == 0
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns != before


def test_command_without_weights_takes_the_package_s(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = faces(tmp_path / "in", "a.png")
    assert upscale(UpscaleConfig([str(root)], out=str(tmp_path / "out"))) == 0
    expected = upscale_images(load_model("default"), [Image.open(root / "a.png")])[0]
    written = np.asarray(Image.open(tmp_path / "out" / "a.png"), dtype=np.int16)
    assert abs(written - np.asarray(expected, dtype=np.int16)).max() <= 1  # frozen: batch norms folded
    assert "for non-commercial research and not for identifying people" in capsys.readouterr().out


def test_the_command_s_ensemble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = faces(tmp_path / "in", "a.png")
    monkeypatch.setattr("aminet_fast.restoration.files.load_network", lambda *args: Lopsided())
    arguments = ["upscale", str(root), "--out", str(tmp_path / "out"), "--ensemble"]
    assert main([*arguments, "flip"]) == 0
    with Image.open(root / "a.png") as lr, Image.open(tmp_path / "out/a.png") as result:
        assert_same(result, brightened(bicubic(lr), 20))
    capsys.readouterr()
    assert main([*arguments, "mirror", "--force"]) == 2
    assert "--ensemble: Expected one of 'none', 'flip'" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(ValueError, match=r"^ensemble is 'mirror', wanted none or flip$"):
        upscale(UpscaleConfig([str(root)], out=str(tmp_path / "new"), ensemble="mirror"))  # type: ignore[arg-type]


def test_a_picture_that_is_large_already_gets_a_note(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    noise(80, 72).save(tmp_path / "in" / "large.png")
    noise(16, 16).save(tmp_path / "in" / "small.png")
    assert upscale(command(tmp_path, weights, tmp_path / "in")) == 0
    printed = capsys.readouterr().out
    assert "1 x over 64 pixels: the network restores faces of about 16 pixels" in printed
    assert "weights of the package" not in printed


def test_folders_that_cannot_be_are_told_before_the_work(tmp_path: Path, weights: str) -> None:
    root = faces(tmp_path / "in", "a.png")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match=r"cannot write the results to .*file/out: Not a directory; .*--out"):
        upscale(UpscaleConfig([str(root)], out=str(tmp_path / "file" / "out"), weights=weights))
    with pytest.raises(OSError, match=r"cannot write the panel to .*file: File exists; .*--panel"):
        upscale(command(tmp_path, weights, root, panel=str(tmp_path / "file" / "p.png")))
    assert list((tmp_path / "out").iterdir()) == []


def test_shrinking_first_and_a_panel_with_the_original(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    noise(60, 40, "RGBA").save(tmp_path / "in" / "big.png")
    noise(10, 9).save(tmp_path / "in" / "small.png")
    panel = tmp_path / "panel.png"
    assert upscale(command(tmp_path, weights, tmp_path / "in", lr_size=10, panel=str(panel))) == 0
    with Image.open(tmp_path / "out" / "big.png") as result:
        assert (result.size, result.mode) == ((15 * 8, 10 * 8), "RGBA")
    with Image.open(tmp_path / "out" / "small.png") as result:
        assert result.size == (80, 72)
    assert "1 x not shrunk" in capsys.readouterr().out
    with Image.open(panel) as sheet:
        assert sheet.width == 4 + 4 * (120 + 4)  # LR, bicubic, AMINet, HR


def test_alpha_and_profile_are_kept_or_the_loss_is_said(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (tmp_path / "in").mkdir()
    for suffix in ("png", "webp", "tif"):
        noise(6, 4, "RGBA").save(tmp_path / "in" / f"{suffix}.{suffix}", icc_profile=icc)
    assert upscale(command(tmp_path, weights, tmp_path / "in")) == 0
    assert "dropped" not in capsys.readouterr().out
    for suffix in ("png", "webp", "tif"):
        with Image.open(tmp_path / "out" / f"{suffix}.{suffix}") as result:
            assert (result.mode, result.size, result.info["icc_profile"]) == ("RGBA", (48, 32), icc)

    assert upscale(command(tmp_path, weights, tmp_path / "in", format="jpg")) == 0
    assert "3 x alpha dropped: JPEG has none" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "png.jpg") as result:
        assert (result.mode, result.info["icc_profile"]) == ("RGB", icc)

    notes: Counter[str] = Counter()
    save(noise(8, 8), tmp_path / "plain.bmp", icc, notes)
    assert [note.split(":")[0] for note in notes] == ["ICC profile dropped"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_zoo_of_odd_and_broken_files(tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    zoo, out = tmp_path / "zoo", tmp_path / "out"
    expected = make_zoo(zoo)
    with pytest.raises(ValueError, match="would both become"):  # plain.png and plain.jpg
        upscale(command(tmp_path, weights, zoo, format="png"))
    status = upscale(command(tmp_path, weights, zoo, lr_size=8))
    captured = capsys.readouterr()
    printed, error = captured.out, " ".join(captured.err.split())
    good = [name for name, e in expected.items() if e.reads]
    bad = [name for name, e in expected.items() if not e.reads]
    assert status == 1
    assert f"{len(bad)} of {len(expected)} pictures failed" in error
    assert f"{len(good)} of {len(expected)} pictures upscaled" in printed
    written = [p for p in out.rglob("*") if p.is_file()]
    assert len(written) == len(good)
    assert not [p for p in written if p.name.startswith(".tmp-")]
    with Image.open(out / "exif_rotated.jpg") as result:
        width, height = expected["exif_rotated.jpg"].size
        assert (result.width > result.height) == (width > height)
    assert "rotated by EXIF" in printed
    assert "scaled to 8 bits" in printed


def test_full_disk_stops_with_a_remedy(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = faces(tmp_path / "in", "a.png", "b.png")
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    assert upscale(command(tmp_path, weights, root)) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "the disk is full" in error
    assert "1 of 2 pictures had been written" in error
    assert "the same command with --skip_existing goes on" in error
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    calls.clear()
    assert upscale(command(tmp_path, weights, root, force=True)) == 1
    error = capsys.readouterr().err
    assert "the same command starts anew; --skip_existing would keep the older results, too\n" in error
    (tmp_path / "out" / "a.png").unlink()
    calls.clear()
    assert upscale(command(tmp_path, weights, root, force=True)) == 1
    assert "the same command with --skip_existing in place of --force goes on\n" in capsys.readouterr().err


def test_what_no_format_holds_is_refused_before_the_work(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    ramp(2048, 2).save(tmp_path / "in" / "wide.webp")  # 16,384 pixels
    ramp(2047, 2).save(tmp_path / "in" / "fits.webp")
    noise(1, 8188).save(tmp_path / "in" / "tall.jpg")  # 65,504
    noise(1, 8187).save(tmp_path / "in" / "fits_too.jpg")
    (tmp_path / "in" / "damaged.webp").write_bytes(b"RIFF")  # what that is reading will say
    monkeypatch.setattr("aminet_fast.restoration.files._process", lambda *args: pytest.fail("began to work"))
    config = command(tmp_path, weights, tmp_path / "in")
    with pytest.raises(ValueError, match="2 of 5 results are larger than their format holds: ") as e:
        upscale(config)
    assert "tall.jpg (8x65504)" in str(e.value)
    assert "wide.webp (16384x16)" in str(e.value)
    assert "WEBP has sides of 16383 pixels at most: pass --format png" in str(e.value)
    assert not (tmp_path / "out").exists()
    jobs = plan(config.inputs, config.out).jobs
    refuse_too_large(jobs, scale=4)
    assert shrunk((2048, 2), 1) == (1024, 1)
    refuse_too_large(plan(config.inputs, config.out, format="png").jobs, scale=8)


def test_a_picture_too_large_for_the_memory_fails_alone(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = faces(tmp_path / "in", "a.png", "b.png")
    noise(40, 40).save(root / "large.png")
    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: 12 * 300 * 300)
    assert upscale(command(tmp_path, weights, root)) == 1
    captured = capsys.readouterr()
    assert "large.png: its result of 320x320 pixels takes 0.0 GiB of memory" in captured.err
    assert "2 of 3 pictures upscaled" in captured.out

    def full(model: object, images: list[Image.Image], **options: object) -> list[Image.Image]:
        if len(images) > 1 or images[0].width > 6:
            raise MemoryError
        return images

    monkeypatch.setattr("aminet_fast.restoration.sizes._memory", lambda: None)
    monkeypatch.setattr("aminet_fast.restoration.files.upscale_images", full)
    assert upscale(command(tmp_path, weights, root, force=True)) == 1
    captured = capsys.readouterr()
    assert "large.png: out of memory at 40x40 pixels; lower --tile (now 64)" in captured.err
    assert "2 of 3 pictures upscaled" in captured.out


def test_going_on_after_ctrl_c(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = faces(tmp_path / "in", "a.png", "b.png", "sub/c.jpg")
    (root / "photo.heic").write_bytes(b"no decoder")
    real, out = files.save, tmp_path / "out"

    def interrupted(image: Image.Image, target: Path, *rest: Any) -> None:
        if target.name == "b.png":
            raise KeyboardInterrupt
        real(image, target, *rest)

    monkeypatch.setattr(files, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        upscale(command(tmp_path, weights, root))
    error = capsys.readouterr().err
    assert f"1 of 3 pictures had been written to {out}; the same command with --skip_existing goes on" in error
    monkeypatch.setattr(files, "save", real)
    before = (out / "a.png").stat().st_mtime_ns
    assert upscale(command(tmp_path, weights, root, skip_existing=True)) == 0
    printed = capsys.readouterr().out
    assert f"2 of 2 pictures upscaled to {out}; 1 result was there already, and is kept" in printed
    assert "left out, as Pillow opens none of them: 1 .heic" in printed
    assert (out / "a.png").stat().st_mtime_ns == before
    panel = tmp_path / "panel.png"
    noise(4, 4).save(panel)
    assert upscale(command(tmp_path, weights, root, skip_existing=True, panel=str(panel))) == 0
    printed = capsys.readouterr().out
    assert f"nothing left to do: 3 results were there already, in {out}\nthe panel {panel} was there already" in printed
    with Image.open(panel) as kept:
        assert kept.size == (4, 4)
    with pytest.raises(ValueError, match="give one of the two"):
        upscale(command(tmp_path, weights, root, skip_existing=True, force=True))


def test_what_a_failed_batch_held_is_gone_when_its_pictures_are_tried_again(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Tensors:
        pass

    held: list[weakref.ref[Tensors]] = []
    alive: list[bool] = []

    def full(model: object, images: list[Image.Image], **options: object) -> list[Image.Image]:
        if len(images) > 1:
            tensors = Tensors()
            held.append(weakref.ref(tensors))
            raise torch.OutOfMemoryError("out of memory")
        alive.append(held[0]() is not None)
        return images

    monkeypatch.setattr(files, "upscale_images", full)
    assert upscale(command(tmp_path, weights, faces(tmp_path / "in", "a.png", "b.png"))) == 0
    assert alive == [False, False]


def test_settings_are_looked_at_where_nothing_is_left_to_do(tmp_path: Path, weights: str) -> None:
    root = faces(tmp_path / "in", "a.png")
    faces(tmp_path / "out", "a.png")
    with pytest.raises(FileNotFoundError, match="wieghts"):
        upscale(command(tmp_path, "wieghts", root, skip_existing=True))
    with pytest.raises(ValueError, match="device 'gpu' cannot be used here"):
        upscale(command(tmp_path, weights, root, skip_existing=True, device="gpu"))
    assert upscale(command(tmp_path, weights, root, skip_existing=True)) == 0


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
def test_sigterm_ends_the_command_as_ctrl_c_does(
    tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = faces(tmp_path / "in", "a.png", "b.png"), tmp_path / "out"
    real, calls = os.fsync, []

    def told_to_end(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        real(handle)

    monkeypatch.setattr(os, "fsync", told_to_end)
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        assert main(["upscale", str(root), "--out", str(out), "--weights", weights]) == 143
        error = capsys.readouterr().err
        assert f"1 of 2 pictures had been written to {out}; the same command with --skip_existing goes on\n" in error
        assert error.endswith("aminet: terminated\n")
        assert [path.name for path in out.iterdir()] == ["a.png"]
        assert came == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert came == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
