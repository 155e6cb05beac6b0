"""LPIPS and FID: what they compute on given weights, and where those come from."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from aminet_fast.metrics import InceptionFeatures, Lpips, fid, load_metrics, psnr, quantise, ssim, vif
from tests.metrics.weights import forbid_downloads, random_alexnet, random_inception


def pictures(n: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A float restoration, partly out of range, and an original made of 8-bit levels."""
    g = torch.Generator().manual_seed(5)
    hr = torch.randint(0, 256, (n, 3, size, size), generator=g).float() / 127.5 - 1
    return 0.7 * hr + 0.3 * torch.randn(hr.shape, generator=g), hr


def lpips_by_hand(sr: torch.Tensor, hr: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Zhang et al., equation 1, on torchvision's layers with the linear weights that package lpips brings."""
    lpips = pytest.importorskip("lpips", reason="lpips is not installed")
    from torchvision.models import alexnet

    layers = alexnet(weights=None).features
    layers.load_state_dict({key.removeprefix("features."): value for key, value in state.items()})
    linear = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", "cpu", weights_only=True)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = ((z - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for z in (sr, hr))
    total = torch.zeros(len(sr))
    for i, layer in enumerate(layers):
        x, y = layer(x), layer(y)
        if i in (1, 4, 7, 9, 11):  # the rectified convolutions
            a, b = (z / (z.square().sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
            weight = linear[f"lin{(1, 4, 7, 9, 11).index(i)}.model.1.weight"]
            total += ((a - b).square() * weight).sum(1).mean((1, 2))
    return total.detach()


def test_lpips_is_the_equation_on_torchvisions_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips", reason="lpips is not installed")
    state = random_alexnet(tmp_path / "alexnet.pth")
    forbid_downloads(monkeypatch, tmp_path)
    sr, hr = pictures(3, 64)
    drawn = torch.random.get_rng_state()
    metric = Lpips(tmp_path / "alexnet.pth")
    assert torch.equal(torch.random.get_rng_state(), drawn)
    for protocol in ("fsr", "exact"):
        seen = [(quantise(x, protocol) / 127.5 - 1).float() for x in (sr, hr)]
        values = metric(sr, hr, protocol)
        assert values.dtype == torch.float64
        np.testing.assert_allclose(values, lpips_by_hand(*seen, state), rtol=1e-5)
        assert values.min() > 0.01
    assert (metric(sr, hr, "fsr") != metric(sr, hr, "exact")).all()
    assert metric(hr, hr).tolist() == [0, 0, 0]

    sr[1, 0, 30, 30] = math.nan
    assert metric(sr, hr).isnan().tolist() == [False, True, False]
    assert metric(sr[..., :31, :31], hr[..., :31, :31]).shape == (3,)
    with pytest.raises(ValueError, match="LPIPS needs pictures of at least 31x31 pixels, got 31x30"):
        metric(sr[..., :31, :30], hr[..., :31, :30])
    with pytest.raises(ValueError, match="one shape"):
        metric(sr, hr[:1])
    with pytest.raises(ValueError, match=r"LPIPS takes RGB pictures .* got shape \(3, 1, 64, 64\)"):
        metric(sr[:, :1], hr[:, :1])


def test_lpips_weights_are_found_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lpips", reason="lpips is not installed")
    random_alexnet(tmp_path / "alexnet.pth")
    hub = tmp_path / "hub"
    forbid_downloads(monkeypatch, hub)
    asks = r"LPIPS needs the file alexnet-owt-7be5be79\.pth, which is not in .*hub/checkpoints .*--lpips_weights FILE"
    with pytest.raises(FileNotFoundError, match=asks):
        load_metrics("lpips")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*missing\.pth \(--lpips_weights\); fetch https"):
        load_metrics("lpips", lpips_weights=tmp_path / "missing.pth")
    (hub / "checkpoints").mkdir(parents=True)
    shutil.copy(tmp_path / "alexnet.pth", hub / "checkpoints/alexnet-owt-7be5be79.pth")
    used = load_metrics("psnr,lpips").weights["lpips"]
    assert used["file"] == "alexnet-owt-7be5be79.pth"
    assert used["published"] is False  # by its SHA-256, whatever its name
    assert len(used["sha256"]) == 64

    (tmp_path / "text.pth").write_text("no tensors")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pth")
    torch.save([1], tmp_path / "list.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 11, 11)}, tmp_path / "part.pth")
    torch.save(random_alexnet(tmp_path / "a") | {"features.0.weight": torch.zeros(1)}, tmp_path / "shape.pth")
    for name, reason in (
        ("text", "it is no file of tensors"),
        ("code", "it is no file of tensors"),
        ("list", "it holds no dictionary of tensors"),
        ("part", r"no match at 'features\.0\.bias'"),
        ("shape", r"no match at Error.*"),
    ):
        with pytest.raises(
            ValueError, match=rf"{name}\.pth does not hold .*7be5be79\.pth \({reason}.*\); fetch"
        ) as caught:
            Lpips(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)


def test_inception_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "inception.pth"
    network = random_inception(file, monkeypatch)
    forbid_downloads(monkeypatch, tmp_path / "hub")
    asks = r"FID needs the file weights-inception-2015-12-05-6726825d\.pth, .*--inception_weights FILE"
    with pytest.raises(FileNotFoundError, match=asks):
        load_metrics("fid")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold .*6726825d\.pth \(Error.*\); fetch https"):
        InceptionFeatures(tmp_path / "other.pth")

    drawn = torch.random.get_rng_state()
    inception = load_metrics("fid", inception_weights=file).inception
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert inception is not None
    x, _ = pictures(2, 32)
    for protocol in ("fsr", "exact"):
        (expected,) = network(quantise(x, protocol).to(torch.uint8))
        torch.testing.assert_close(inception(x, protocol), expected, rtol=1e-5, atol=1e-6)
    assert inception(x).shape == (2, 2048)
    assert inception(x).std() > 1e-3
    x[1, 0, 0, 0] = math.nan
    assert inception(x).isnan().all(dim=1).tolist() == [False, True]
    assert not inception(x)[0].isnan().any()
    with pytest.raises(ValueError, match=r"FID takes RGB pictures .* got shape \(1, 1, 32, 32\)"):
        inception(x[:1, :1])


def test_fid_of_known_gaussians() -> None:
    """Sets whose covariances are multiples of each other: |m - m'|^2 + (1 - c)^2 tr S for S and c^2 S."""
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    g = torch.Generator().manual_seed(0)
    features = torch.randn(60, 5, generator=g, dtype=torch.float64) @ torch.randn(
        5, 5, generator=g, dtype=torch.float64
    )
    shift = torch.tensor([1.0, -2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    trace = torch.cov(features.T).trace().item()
    assert fid(features, features) == pytest.approx(0, abs=1e-9)
    assert fid(features + shift, features) == pytest.approx(shift.square().sum().item(), rel=1e-9)
    moved = 3 * (features - features.mean(0)) + features.mean(0)
    assert fid(moved, features) == pytest.approx(4 * trace, rel=1e-9)
    assert fid(features.float() + shift, features[:30]) > 0
    features[3, 2] = math.nan
    assert math.isnan(fid(features, features[:3]))
    with pytest.raises(ValueError, match="at least 2 pictures a set, got 60 and 1"):
        fid(features, features[:1])


def test_metrics_by_name() -> None:
    metrics = load_metrics("ssim, psnr,vif")
    assert metrics.names == ("ssim", "psnr", "vif")
    assert list(metrics.per_picture.items()) == [("ssim", ssim), ("psnr", psnr), ("vif", vif)]
    assert metrics.inception is None
    assert load_metrics(["psnr"]).names == ("psnr",)
    for names, words in (
        ("psnr,vift", "unknown metric 'vift'; choose of psnr, ssim, vif, vifp, lpips, fid"),
        ("", "unknown metric ''"),
        ("psnr,psnr", "metric 'psnr' is given twice"),
        ([], "no metric is given"),
    ):
        with pytest.raises(ValueError, match=words):
            load_metrics(names)


@pytest.mark.parametrize(
    ("package", "metric", "extra"),
    [("lpips", "lpips", "metrics"), ("torchmetrics", "vifp", "metrics"), ("torch_fidelity", "fid", "fid")],
)
def test_a_missing_package_is_named(package: str, metric: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [n for n in sys.modules if n == package or n.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs package .*pip install 'aminet-fast\[{extra}\]'"):
        load_metrics(metric)
