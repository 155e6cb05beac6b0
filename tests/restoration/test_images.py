from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast import AMINet, Expects
from aminet_fast.restoration import upscale_images
from aminet_fast.restoration.tiling import process_tiles, tile_starts, tile_weights
from tests.restoration.inputs import Lopsided, assert_same, bicubic, brightened, noise


class Darken(nn.Module):
    """Pointwise, and remembers the shapes it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(x.shape))
        return x - 64 / 127.5


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
    with pytest.raises(ValueError, match=r"^ensemble is 'mirror', wanted none or flip$"):
        upscale_images(nn.Identity(), [], ensemble="mirror")  # type: ignore[arg-type]

    for size in ((0, 5), (5, 0), (0, 0)):
        with pytest.raises(ValueError, match=rf"^picture 1 is {size[0]}x{size[1]} pixels, wanted at least 1x1$"):
            upscale_images(nn.Identity(), [noise(4, 4), Image.new("I", size)])

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float("nan")

    with pytest.raises(ValueError, match="NaN"):
        upscale_images(Broken(), [noise(4, 4)])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (noise(4, 4), "images is one picture, wanted a list of PIL pictures: put it in brackets"),
        ("a.png", "images is a str, wanted a list of PIL pictures, as Image.open reads them"),
        (
            Path("a.png"),
            f"images is a {type(Path()).__name__}, wanted a list of PIL pictures, as Image.open reads them",
        ),
        (np.zeros((2, 4, 4, 3), np.uint8), "images is a ndarray, wanted a list of PIL pictures, as Image.fromarray"),
        (torch.zeros(2, 3, 4, 4), "images is a Tensor, wanted a list of PIL pictures, as Image.fromarray makes them"),
        (None, "images is a NoneType, wanted a list of PIL pictures"),
        ([noise(4, 4), np.zeros((4, 4, 3), np.uint8)], "picture 1 is a ndarray, wanted a PIL picture; Image.fromarray"),
        (["a.png"], "picture 0 is a str, wanted a PIL picture; Image.open reads one"),
    ],
)
def test_other_things_than_pictures_are_refused(images: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)) as e:
        upscale_images(nn.Identity(), images)
    assert "\n" not in str(e.value)
    assert len(upscale_images(nn.Identity(), (noise(4, 4) for _ in range(2)))) == 2  # type: ignore[arg-type]


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


def test_wide_grey_pictures_are_scaled_as_files_are(tmp_path) -> None:
    """Pillow's own convert clips them at 255: a 16-bit face would come out white."""
    levels = np.asarray(noise(16, 16, "L"))
    expected = bicubic(Image.fromarray(levels).convert("RGB"))
    Image.fromarray(levels.astype(np.uint16) * 257).save(tmp_path / "16.png")
    wide = [Image.open(tmp_path / "16.png"), Image.fromarray(levels.astype(np.int32) * 257)]
    wide += [Image.fromarray(levels.astype(np.float32) * k) for k in (1, np.float32(1 / 255))]
    assert {image.mode for image in wide} == {"I;16", "I", "F"}
    for result in upscale_images(nn.Identity(), wide):
        assert_same(result, expected)
    with pytest.raises(ValueError, match=r"picture 1: has values from 70000 to 70000 in mode I, wanted \[0, 65535\]"):
        upscale_images(nn.Identity(), [noise(4, 4), Image.new("I", (4, 4), 70000)])


def test_results_are_as_large_as_the_weights_say() -> None:
    """Also behind a wrapper, in tiles, and of alpha: everywhere the eight stood."""
    for scale in (1, 3, 4):
        model = Darken()
        model.expects = Expects(scale=scale)  # type: ignore[assignment]
        pictures = [noise(7, 5), noise(40, 20), noise(4, 4, "RGBA")]
        for network in (model, nn.DataParallel(model), nn.Sequential(model)):
            results = upscale_images(network, pictures, tile=16)
            sizes = [(x.width * scale, x.height * scale) for x in pictures]
            assert [result.size for result in results] == sizes
            alpha = pictures[2].getchannel("A").resize(sizes[2], Image.Resampling.BICUBIC)
            assert_same(results[2].getchannel("A"), alpha)
        identity = nn.Identity()
        identity.expects = model.expects
        wanted = pictures[1].resize(sizes[1], Image.Resampling.BICUBIC)
        assert_same(upscale_images(identity, pictures[1:2], tile=16)[0], wanted)


@pytest.mark.parametrize("size", [(16, 16), (6, 3), (40, 18)])
def test_a_flip_ensemble_of_whole_pictures_and_of_tiles(size: tuple[int, int]) -> None:
    image = noise(*size)
    result = upscale_images(Lopsided(), [image], ensemble="flip", tile=16)[0]
    assert_same(result, brightened(bicubic(image), 20))
    left = upscale_images(Lopsided(), [image], tile=0)[0].crop((0, 0, 8, 8))
    assert_same(left, brightened(bicubic(image).crop((0, 0, 8, 8)), 40))
