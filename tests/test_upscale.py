from __future__ import annotations

import errno
import os
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import make_zoo, ramp
from PIL import Image, ImageCms
from torch import nn

from aminet_fast import AMINet, AMINetConfig
from aminet_fast.tiling import process_tiles, tile_starts, tile_weights
from aminet_fast.upscale import UpscaleConfig, upscale, upscale_images
from aminet_fast.upscale_files import save
from aminet_fast.upscale_plan import plan


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze() if channels == 1 else pixels, mode)


def bicubic(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 8, image.height * 8), Image.Resampling.BICUBIC)


def assert_same(a: Image.Image, b: Image.Image) -> None:
    assert (a.mode, a.size) == (b.mode, b.size)
    assert a.tobytes() == b.tobytes()


class Darken(nn.Module):
    """Pointwise, and remembers the shapes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return x - 64 / 127.5


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("net")
    AMINet(AMINetConfig(width=4, hourglass_width=4)).save_pretrained(folder)
    return str(folder)


def test_identity_network_gives_bicubic_in_order() -> None:
    images = [noise(16, 16, seed=1), noise(7, 5), noise(16, 16, seed=2), noise(1, 1), noise(3, 40)]
    for image, result in zip(images, upscale_images(nn.Identity(), images), strict=True):
        assert_same(result, bicubic(image))


def test_network_runs_on_padded_batches_of_one_size() -> None:
    model = Darken().train()
    images = [noise(16, 16, seed=i) for i in range(5)] + [noise(5, 3), noise(32, 32)]
    results = upscale_images(model, images, batch_size=2)
    assert model.training
    assert model.shapes == [(2, 3, 128, 128)] * 2 + [(1, 3, 128, 128), (1, 3, 32, 48), (1, 3, 256, 256)]
    for image, result in zip(images, results, strict=True):
        expected = np.maximum(np.asarray(bicubic(image)).astype(int) - 64, 0)
        assert np.abs(np.asarray(result).astype(int) - expected).max() == 0


def test_alpha_is_enlarged_apart_from_colour() -> None:
    image = noise(9, 6, "RGBA")
    result = upscale_images(nn.Identity(), [image])[0]
    assert result.mode == "RGBA"
    assert_same(result.getchannel("A"), bicubic(image.getchannel("A")))
    assert_same(result.convert("RGB"), bicubic(image.convert("RGB")))
    assert upscale_images(nn.Identity(), [noise(4, 4, "L")])[0].mode == "RGB"


def test_real_network_takes_any_size(weights: str) -> None:
    model = AMINet.from_pretrained(weights)
    sizes = [(1, 1), (2, 3), (17, 9)]
    results = upscale_images(model, [noise(*size) for size in sizes])
    assert [r.size for r in results] == [(w * 8, h * 8) for w, h in sizes]


def test_bad_arguments_and_broken_weights() -> None:
    with pytest.raises(ValueError, match="tile is 8"):
        upscale_images(nn.Identity(), [noise(4, 4)], tile=8)
    with pytest.raises(ValueError, match="batch_size is 0"):
        upscale_images(nn.Identity(), [noise(4, 4)], batch_size=0)

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    with pytest.raises(ValueError, match="NaN"):
        upscale_images(Broken(), [noise(4, 4)])


@pytest.mark.parametrize(("length", "tile", "overlap"), [(64, 64, 8), (65, 64, 8), (1000, 128, 64), (37, 16, 7)])
def test_tile_weights_sum_to_one(length: int, tile: int, overlap: int) -> None:
    starts = tile_starts(length, tile, overlap)
    weights = tile_weights(starts, length, tile, overlap)
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        assert start + len(weight) <= length
        assert (weight >= 0).all()
        total[start : start + len(weight)] += weight
    np.testing.assert_allclose(total, 1.0, atol=1e-12)
    assert all(b - a <= tile - overlap for a, b in pairwise(starts))


def test_tiles_see_the_right_pixels_and_blend_linearly() -> None:
    image = Image.new("RGB", (24, 16))

    def process(tiles: list[Image.Image]) -> list[np.ndarray]:
        assert [t.size for t in tiles] == [(16, 16)] * 2
        return [np.full((16, 16, 3), value, dtype=np.float32) for value in (0, 160)]

    # Overlap 8, margin 2: from pixel 8 on, 2 of the first tile, 4 rising by a quarter, 2 of the second.
    row = np.asarray(process_tiles(image, process, tile=16, overlap=8))[3, :, 0]
    assert row.tolist() == [0] * 10 + [20, 60, 100, 140] + [160] * 10


@pytest.mark.parametrize("size", [(70, 20), (18, 46), (50, 52), (16, 16)])
def test_tiled_equals_whole_for_a_local_network(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 5, padding=2)
    image = noise(*size)
    for model in (nn.Identity(), conv):
        whole = upscale_images(model, [image], tile=0)[0]
        tiled = upscale_images(model, [image], tile=16)[0]
        difference = np.abs(np.asarray(whole).astype(int) - np.asarray(tiled).astype(int))
        assert tiled.size == whole.size
        # float rounding may move a level that lies between two integers
        assert difference.max() <= (0 if model is not conv else 1)
        assert (difference > 0).mean() < 1e-4


def test_tiles_of_odd_sizes_leave_the_identity_alone() -> None:
    for size in ((19, 45), (51, 17)):
        assert_same(upscale_images(nn.Identity(), [noise(*size)], tile=17)[0], bicubic(noise(*size)))


def test_large_pictures_are_tiled_and_small_ones_are_not() -> None:
    model = Darken()
    upscale_images(model, [noise(16, 16), noise(40, 20)], tile=16, batch_size=2)
    assert model.shapes[0] == (1, 3, 128, 128)
    assert {shape[2:] for shape in model.shapes[1:]} == {(128, 128)}
    assert max(shape[0] for shape in model.shapes) == 2
    assert sum(shape[0] for shape in model.shapes[1:]) == 4 * 2


def faces(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(6, 4, seed=i).save(folder / name)
    return folder


def test_plan_keeps_names_and_structure(tmp_path: Path) -> None:
    root, out = faces(tmp_path / "in", "a.png", "sub/b.jpg", "sub/c.gif", "x[1].png"), tmp_path / "out"
    whole = {str(j.target.relative_to(out)) for j in plan([str(root)], out)}
    assert whole == {"a.png", "sub/b.jpg", "sub/c.png", "x[1].png"}
    assert {j.target.name for j in plan([str(root)], out, format="jpg")} == {
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "x[1].jpg",
    }
    assert [j.target for j in plan([str(root / "**" / "*.jpg")], out)] == [out / "b.jpg"]
    assert [j.target for j in plan([str(root / "x[1].png")], out)] == [out / "x[1].png"]
    assert len(plan([str(root), str(root / "a.png"), str(root / "." / "a.png")], out)) == 4


def test_plan_refuses_before_anything_is_lost(tmp_path: Path) -> None:
    root, out = faces(tmp_path / "in", "a.png", "a.gif", "one/s.png", "two/s.png"), tmp_path / "out"
    with pytest.raises(ValueError, match=r"a\.gif and .*a\.png would both become .*a\.png"):
        plan([str(root)], out)
    with pytest.raises(ValueError, match="would both become"):
        plan([str(root / "one" / "s.png"), str(root / "two" / "s.png")], out)
    (root / "a.gif").unlink()
    with pytest.raises(ValueError, match="would overwrite pictures that are inputs"):
        plan([str(root)], root, force=True)
    faces(out, "a.png")
    with pytest.raises(ValueError, match=r"1 of 3 results exist already: .*a\.png; pass --force"):
        plan([str(root)], out)
    assert len(plan([str(root)], out, force=True)) == 3
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        plan([str(root / "*.webp")], out)
    with pytest.raises(ValueError, match="no pictures to upscale"):
        plan([], out)
    with pytest.raises(ValueError, match="is a file"):
        plan([str(root)], root / "a.png")


def test_results_inside_the_input_folder_are_not_inputs_again(tmp_path: Path) -> None:
    root = faces(tmp_path / "in", "a.png", "up/a.png")
    jobs = plan([str(root)], root / "up", force=True)
    assert [(j.source, j.target) for j in jobs] == [(root / "a.png", root / "up" / "a.png")]


def command(tmp_path: Path, weights: str, *inputs: Path, **settings: object) -> UpscaleConfig:
    names = [str(path) for path in inputs]
    return UpscaleConfig(names, out=str(tmp_path / "out"), weights=weights, **settings)  # type: ignore[arg-type]


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


def test_command_without_weights_says_how_to_get_some(tmp_path: Path) -> None:
    root = faces(tmp_path / "in", "a.png")
    with pytest.raises(ValueError, match=r"aminet train.*--weights RUN"):
        upscale(UpscaleConfig([str(root)], out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


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
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]


def test_picture_a_format_cannot_hold_fails_alone(
    tmp_path: Path, weights: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    ramp(2100, 1).save(tmp_path / "in" / "wide.webp")  # times 8 is beyond WebP's 16383
    noise(4, 4).save(tmp_path / "in" / "fine.webp")
    assert upscale(command(tmp_path, weights, tmp_path / "in")) == 1
    captured = capsys.readouterr()
    assert "1 of 2 pictures failed" in captured.err
    assert "1 of 2 pictures upscaled" in captured.out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["fine.webp"]
