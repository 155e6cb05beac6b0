"""VIF against a second one, written block by block in NumPy on pyrtools' pyramid, and VIF-P against torchmetrics."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aminet_fast.data import DataConfig, open_faces, to_image
from aminet_fast.metrics import PROTOCOLS, grey, vif, vifp
from aminet_fast.metrics.steerable import oriented_bands


def from_levels(levels: torch.Tensor) -> torch.Tensor:
    """[..., H, W] whole numbers 0..255 to float32 in [-1, 1]."""
    return levels.float() / 127.5 - 1


def pictures(n: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A blurred, noisy restoration, partly out of range, and an original of 8-bit levels."""
    g = torch.Generator().manual_seed(seed)
    small = torch.rand(n, 3, height // 3, width // 3, generator=g) * 255
    levels = torch.nn.functional.interpolate(small, size=(height, width), mode="bicubic").clamp(0, 255).round()
    hr = from_levels(levels)
    blurred = torch.nn.functional.avg_pool2d(hr, 5, stride=1, padding=2)
    return blurred + 0.1 * torch.randn(hr.shape, generator=g), hr


def second_vif(sr: np.ndarray, hr: np.ndarray) -> float:
    """VIF of two grey pictures [H, W] on the scale 0..255, one block after another."""
    pyramid = pytest.importorskip("pyrtools", reason="pyrtools is not installed").pyramids.SteerablePyramidSpace
    noisy, clean = (pyramid(x, 4, 5, "reflect1").pyr_coeffs for x in (sr, hr))
    kept, whole = [], []
    for level in range(4):
        window = {3: 3, 2: 5, 1: 9, 0: 17}[level]
        for orientation in (0, 3):
            x, y = (coefficients[level, orientation] for coefficients in (clean, noisy))
            rows, columns = x.shape[0] // 3, x.shape[1] // 3
            x, y = x[: 3 * rows, : 3 * columns], y[: 3 * rows, : 3 * columns]
            vectors = np.lib.stride_tricks.sliding_window_view(x, (3, 3)).reshape(-1, 9)
            covariance = np.cov(vectors.T)
            eigenvalues = np.linalg.eigvalsh(covariance)
            padded_x, padded_y = (np.pad(band, (window - 3) // 2, mode="reflect") for band in (x, y))
            cut = math.ceil((window - 1) / 2 / 3)
            top, bottom = [], []
            for i in range(cut, rows - cut):
                for j in range(cut, columns - cut):
                    block = x[3 * i : 3 * i + 3, 3 * j : 3 * j + 3].ravel()
                    strength = block @ np.linalg.solve(covariance, block) / 9
                    around = np.s_[3 * i : 3 * i + window, 3 * j : 3 * j + window]
                    (xx, xy), (_, yy) = np.cov(padded_x[around].ravel(), padded_y[around].ravel(), bias=True)
                    gain = max(xy / xx, 0.0)
                    noise = yy - gain * xy if gain else yy
                    top.append(np.log(1 + gain**2 * strength * eigenvalues / (noise + 0.1)).sum())
                    bottom.append(np.log(1 + strength * eigenvalues / 0.1).sum())
            kept.append(np.mean(top) + 1e-4)
            whole.append(np.mean(bottom) + 1e-4)
    return float(np.mean(kept) / np.mean(whole))


@pytest.mark.parametrize("size", [(128, 128), (97, 130), (72, 75)])
def test_pyramid_is_that_of_pyrtools(size: tuple[int, int]) -> None:
    pyramid = pytest.importorskip("pyrtools", reason="pyrtools is not installed").pyramids.SteerablePyramidSpace
    x = grey(pictures(2, *size)[0])
    bands = oriented_bands(x, 4)
    for i in range(2):
        expected = pyramid(x[i, 0].numpy(), 4, 5, "reflect1").pyr_coeffs
        for level, band in enumerate(bands):
            for which, orientation in enumerate((0, 3)):
                np.testing.assert_allclose(band[i, which].numpy(), expected[level, orientation], rtol=0, atol=1e-11)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [(128, 128), (97, 82), (72, 72)])
def test_equal_to_the_second_one(size: tuple[int, int], protocol: str) -> None:
    sr, hr = pictures(2, *size)
    expected = [
        second_vif(a[0].numpy(), b[0].numpy()) for a, b in zip(grey(sr, protocol), grey(hr, protocol), strict=True)
    ]
    np.testing.assert_allclose(vif(sr, hr, protocol).numpy(), expected, rtol=1e-9)


def test_equal_to_the_second_one_on_real_faces(tmp_path: Path) -> None:
    if "AMINET_FACES" not in os.environ:
        pytest.skip("AMINET_FACES is not set: no real faces")
    pytest.importorskip("pyrtools", reason="pyrtools is not installed")
    faces = open_faces(DataConfig(root=str(Path(os.environ["AMINET_FACES"]) / "test_b"), cache=str(tmp_path)), "all")
    items = [faces[i] for i in range(0, 160, 20)]
    ours = vif(torch.stack([item["input"] for item in items]), torch.stack([item["hr"] for item in items]))
    # Read and turned grey by Pillow, as the papers' script does it.
    greys = [[np.asarray(to_image(item[key]).convert("L")) for key in ("input", "hr")] for item in items]
    np.testing.assert_allclose(ours.numpy(), [second_vif(*pair) for pair in greys], rtol=1e-9)
    assert 0.2 < ours.mean().item() < 0.33  # all 168 faces: 0.2598


def test_known_values() -> None:
    """What the papers' script (vif_utils.py, pyrtools 1.1.1) printed for these pictures."""
    y, x = torch.meshgrid(torch.arange(80), torch.arange(96), indexing="ij")
    levels = torch.stack([(x * x + 3 * x * y + k * y * y) // 64 % 256 for k in (1, 2, 3)])
    blurred = (levels + levels.roll(1, -1) + levels.roll(1, -2) + levels.roll((1, 1), (-2, -1))) // 4
    darker = levels * 3 // 4
    sr, hr = from_levels(torch.stack((blurred, darker))), from_levels(torch.stack((levels, levels)))
    assert vif(sr, hr).tolist() == pytest.approx([0.5480259710173092, 0.8818516372425295], rel=1e-9)


def test_grey_is_pillows() -> None:
    g = torch.Generator().manual_seed(1)
    levels = torch.randint(0, 256, (1, 3, 200, 300), generator=g)
    picture = Image.fromarray(levels[0].permute(1, 2, 0).to(torch.uint8).numpy())
    np.testing.assert_array_equal(grey(from_levels(levels))[0, 0].numpy(), np.asarray(picture.convert("L")))
    exact = grey(from_levels(levels), "exact")[0, 0].numpy()
    np.testing.assert_allclose(exact, np.tensordot([0.299, 0.587, 0.114], levels[0].numpy(), 1), rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match=r"grey takes RGB pictures .* got shape \(2, 1, 8, 8\)"):
        grey(torch.zeros(2, 1, 8, 8))


@pytest.mark.parametrize("metric", [vif, vifp])
def test_identical_pictures_and_stronger_contrast(metric: Callable[..., torch.Tensor]) -> None:
    _, hr = pictures(2, 73, 80)
    for protocol in PROTOCOLS:
        torch.testing.assert_close(metric(hr, hr, protocol), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (metric(hr, 0.5 * hr, "exact") > 1.01).all()
    assert (metric(0.5 * hr, hr, "exact") < 0.99).all()


def test_pictures_of_one_grey() -> None:
    _, hr = pictures(1, 72, 72)
    flat = torch.full_like(hr, 0.2)
    # an original without information has none to lose
    assert vif(flat, flat).item() == pytest.approx(1, abs=1e-6)
    assert vif(hr, flat).item() == pytest.approx(1, abs=1e-6)
    assert 0 <= vif(flat, hr).item() < 1e-4
    assert math.isnan(vifp(hr, flat).item())  # nor any to divide by
    assert vifp(flat, hr).item() == 0
    # reversed contrast carries nothing
    assert vif(-hr, hr).item() < 0.02


def test_colourless_pictures() -> None:
    sr, hr = (x[:, :1].expand(-1, 3, -1, -1) for x in pictures(1, 80, 90))
    values = vif(sr, hr, "exact").item(), vifp(sr, hr, "exact").item()
    assert all(0.05 < value < 0.95 for value in values)
    # grey weights add up to one: the grey of a colourless picture is the picture
    torch.testing.assert_close(grey(hr, "exact"), ((hr[:, :1].double() + 1) * 127.5).round(), rtol=0, atol=1e-9)


def test_pixel_vif_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.image import visual_information_fidelity

    sr, hr = pictures(3, 75, 72)
    for protocol in PROTOCOLS:
        ours = vifp(sr, hr, protocol)
        theirs = visual_information_fidelity(grey(sr, protocol), grey(hr, protocol))  # the mean of the batch
        assert ours.mean().item() == pytest.approx(theirs.item(), rel=1e-12)
        assert (ours - vif(sr, hr, protocol)).abs().min() > 0.02


@pytest.mark.parametrize("metric", [vif, vifp])
def test_each_picture_alone_and_nan(metric: Callable[..., torch.Tensor]) -> None:
    sr, hr = pictures(3, 76, 81)
    together = metric(sr, hr)
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    alone = torch.cat([metric(sr[i : i + 1], hr[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-11, atol=0)
    sr[1, 2, 40, 40] = math.nan
    for protocol in PROTOCOLS:
        assert metric(sr, hr, protocol).isnan().tolist() == [False, True, False]
    assert metric(sr, hr)[::2].tolist() == pytest.approx(alone[::2].tolist(), rel=1e-11)


def test_pixel_vif_against_an_original_of_one_grey_is_no_number() -> None:
    """A light yellow has a grey that float64 does not hold: its variance is rounding, and its VIF-P was 0.29."""
    hr = pictures(4, 80, 80)[1]
    for i, colour in enumerate([(1.0, -0.3, 0.77), (0.0, 0.0, 0.0), (-0.2, 0.6, 1.0)]):
        hr[i] = torch.tensor(colour).view(3, 1, 1)
    for protocol in PROTOCOLS:
        for sr in (hr, pictures(4, 80, 80)[0]):
            assert vifp(sr, hr, protocol).isnan().tolist() == [True, True, True, False]
            assert vif(sr, hr, protocol)[:3].tolist() == [1.0, 1.0, 1.0]


def test_bad_arguments_say_what_came() -> None:
    x = torch.zeros(1, 3, 72, 71)
    with pytest.raises(ValueError, match="VIF needs pictures of at least 72x72 pixels, got 72x71"):
        vif(x, x)
    with pytest.raises(ValueError, match="VIF-P needs pictures of at least 41x41 pixels, got 72x40"):
        vifp(x[..., :40], x[..., :40])
    with pytest.raises(ValueError, match=r"one shape, got \(1, 3, 72, 71\) and \(1, 3, 72, 70\)"):
        vif(x, x[..., :70])
    with pytest.raises(ValueError, match="unknown protocol 'matlab'"):
        vif(x, x, "matlab")
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        vif(x.byte(), x.byte())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_same_on_a_gpu() -> None:
    sr, hr = pictures(2, 128, 128)
    for metric in (vif, vifp):
        on_gpu = metric(sr.cuda(), hr.cuda())
        assert on_gpu.device.type == "cuda"
        torch.testing.assert_close(on_gpu.cpu(), metric(sr, hr), rtol=1e-9, atol=0)
