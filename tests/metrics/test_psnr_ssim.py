from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aminet_fast.metrics import PROTOCOLS, luma, mean_psnr, psnr, quantise, ssim


def pictures(n: int, h: int, w: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A float restoration, partly out of range, and an original made of 8-bit levels."""
    g = torch.Generator().manual_seed(seed)
    levels = torch.randint(0, 256, (n, 3, h, w), generator=g)
    hr = levels.float() / 127.5 - 1
    return hr + 0.2 * torch.randn(hr.shape, generator=g), hr


def script_luma(picture: np.ndarray) -> np.ndarray:
    """Y as the scripts of the papers compute it from a uint8 RGB picture [H, W, 3]."""
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    return (16 + np.matmul(picture, weights)).astype(np.uint8)


def script_picture(x: torch.Tensor) -> np.ndarray:
    """[3, H, W] in [-1, 1] to uint8 by truncation, as those scripts save pictures."""
    return ((x.double().numpy() + 1) / 2 * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def test_luma_of_known_colours() -> None:
    levels = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]])
    x = (levels.float() / 127.5 - 1).view(-1, 3, 1, 1)
    # 16 + 65.481 = 81.481 and so on; grey 128 is 16 + 219 * 128 / 255 = 125.929...
    exact = torch.tensor([16, 235, 81.481, 144.553, 40.966, 16 + 219 * 128 / 255], dtype=torch.float64)
    torch.testing.assert_close(luma(x, "exact").flatten(), exact, rtol=0, atol=1e-12)
    assert luma(x, "fsr").flatten().tolist() == [16, 235, 81, 144, 40, 125]
    assert luma(x).dtype == torch.float64
    assert luma(x).shape == (6, 1, 1, 1)


def test_luma_is_the_papers_script() -> None:
    sr, hr = pictures(2, 67, 53)
    original = [np.rint((p.double().numpy() + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0) for p in hr]
    for x, saved in (
        (sr, [script_picture(p) for p in sr]),
        (hr, original),
    ):  # the scripts read HR from its file
        ours = luma(x, "fsr")[:, 0].numpy()
        expected = np.stack([script_luma(p) for p in saved])
        # The script's float sum may fall just below a whole Y where ours is exact: 46 of all 2**24 colours.
        assert (ours != expected).mean() < 1e-3
        assert np.abs(ours - expected).max() <= 1


def test_every_level_survives_truncation() -> None:
    levels = torch.arange(256)
    for stored in (
        levels.float() / 127.5 - 1,
        levels.float() / 255 * 2 - 1,
        (levels.float() / 255 - 0.5) / 0.5,
    ):
        for protocol in PROTOCOLS:
            assert torch.equal(quantise(stored, protocol), levels.double())


def test_quantise_truncates_or_rounds_half_to_even() -> None:
    x = torch.tensor([-3.0, -1.0, (0.75 / 127.5) - 1, (0.25 / 127.5) - 1, 0.0, 1.0, 9.0], dtype=torch.float64)
    assert quantise(x, "fsr").tolist() == [0, 0, 0, 0, 127, 255, 255]
    assert quantise(x, "exact").tolist() == [0, 0, 1, 0, 128, 255, 255]  # 0.0 is level 127.5


def test_psnr_by_hand() -> None:
    hr = torch.full((1, 3, 4, 4), -1.0)
    sr = hr.clone()
    sr[:, :, :2] = 1.0  # half the pixels go from Y 16 to Y 235
    expected = 10 * math.log10(255**2 / (219**2 / 2))
    for protocol in PROTOCOLS:
        assert psnr(sr, hr, protocol).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [(128, 128), (37, 41), (11, 11), (16, 13)])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_equal_to_scikit_image(size: tuple[int, int], protocol: str) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    sr, hr = pictures(3, *size)
    ys, yh = luma(sr, protocol)[:, 0].numpy(), luma(hr, protocol)[:, 0].numpy()
    if protocol == "fsr":
        ys, yh = ys.astype(np.uint8), yh.astype(np.uint8)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    for i in range(3):
        assert psnr(sr, hr, protocol)[i].item() == pytest.approx(
            metrics.peak_signal_noise_ratio(yh[i], ys[i], data_range=255), abs=1e-9
        )
        assert ssim(sr, hr, protocol)[i].item() == pytest.approx(
            metrics.structural_similarity(yh[i], ys[i], **options), abs=1e-9
        )


def test_ssim_of_flat_pictures_by_hand() -> None:
    # No variance: SSIM is (2ab + C1) / (a^2 + b^2 + C1) with a = 16 and b = 235.
    c1 = (0.01 * 255) ** 2
    black, white = -torch.ones(1, 3, 12, 15), torch.ones(1, 3, 12, 15)
    expected = (2 * 16 * 235 + c1) / (16**2 + 235**2 + c1)
    assert ssim(black, white, "exact").item() == pytest.approx(expected, abs=1e-9)


def test_scores_do_not_depend_on_the_batch() -> None:
    sr, hr = pictures(4, 20, 17)
    for metric in (psnr, ssim):
        single = torch.cat([metric(sr[i : i + 1], hr[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(metric(sr, hr), single, rtol=0, atol=1e-12)
        assert metric(sr, hr).shape == (4,)
        assert metric(sr, hr).dtype == torch.float64


def test_identical_and_broken_pictures() -> None:
    _, hr = pictures(2, 16, 16)
    assert psnr(hr, hr).tolist() == [math.inf, math.inf]
    torch.testing.assert_close(ssim(hr, hr), torch.ones(2, dtype=torch.float64))
    broken = hr.clone()
    broken[1, 0, 3, 3] = math.nan
    for protocol in PROTOCOLS:
        assert psnr(broken, hr, protocol).isnan().tolist() == [False, True]
        assert ssim(broken, hr, protocol).isnan().tolist() == [False, True]


def test_mean_psnr_leaves_identical_pictures_out() -> None:
    assert mean_psnr([20.0, 30.0, math.inf]) == 25.0
    assert mean_psnr([math.inf]) == math.inf
    assert math.isnan(mean_psnr([]))
    assert math.isnan(mean_psnr([20.0, math.nan]))


def test_bad_arguments_say_what_came() -> None:
    x = torch.zeros(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"'matlab'.*fsr, exact"):
        psnr(x, x, "matlab")
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\) and \(1, 3, 16, 8\)"):
        psnr(x, x[..., :8])
    with pytest.raises(ValueError, match=r"got shape \(3, 16, 16\)"):
        luma(x[0])
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        luma(x.byte())
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 16x10"):
        ssim(x[..., :10], x[..., :10])
