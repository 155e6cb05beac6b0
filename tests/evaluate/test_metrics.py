"""``aminet evaluate`` beyond PSNR and SSIM: chosen metrics, intervals, warnings."""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aminet_fast.commands.cli import main
from aminet_fast.data import DataConfig, draw_face, open_faces
from aminet_fast.evaluate import EvaluateConfig, Quality, Scores, evaluate, evaluate_model
from aminet_fast.metrics import Lpips, fid, vif, vifp
from tests.metrics.weights import forbid_downloads, random_alexnet

SIZE = 80


def drawn(tmp_path: Path, limit: int = 3, size: int = SIZE) -> DataConfig:
    return DataConfig(cache=str(tmp_path / "cache"), size=size, limit=limit)


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


class Darken(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.9 * x - 0.05


class PatchMeans:
    """Stands for Inception: six features of a picture, and the name of a file."""

    weights = {"file": "means.pth", "sha256": "0" * 64, "published": True}  # noqa: RUF012 (never changed)

    def __init__(self, *_: object) -> None: ...

    def __call__(self, x: torch.Tensor, protocol: str) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x.nan_to_num(0), (1, 2)).flatten(1)


@pytest.fixture
def darken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminet_fast.evaluate.run.load_network", lambda *args: Darken())


@pytest.mark.usefixtures("darken")
def test_every_metric_of_each_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lpips", reason="lpips is not installed")
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    alexnet = tmp_path / "alexnet.pth"
    random_alexnet(alexnet)
    forbid_downloads(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr("aminet_fast.metrics.metric_set.InceptionFeatures", PatchMeans)
    config = EvaluateConfig(
        weights="net",
        data=drawn(tmp_path),
        metrics="psnr,ssim,vif,vifp,lpips,fid",
        protocol="both",
        lpips_weights=str(alexnet),
        out=str(tmp_path / "out"),
        batch_size=2,
    )
    assert evaluate(config) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for words in ("VIF", "VIF-P", "LPIPS", "FID", "95% interval of 10000 resamples", "not the papers' VIF"):
        assert words in printed
    assert "LPIPS used alexnet.pth, which is not the published file" in printed
    assert "FID compares 3 pictures with 3 originals. It is unreliable: below 2048" in printed
    assert "FID used" not in printed

    faces = open_faces(config.data, "test")
    up, hr = (torch.stack([faces[i][key] for i in range(3)]) for key in ("input", "hr"))
    sr = Darken()(up)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["metric_weights"]["lpips"]["file"] == "alexnet.pth"
    assert {"lpips", "torch-fidelity", "torchmetrics"} <= set(summary["versions"])
    for protocol, score in summary["scores"].items():
        rows = read_csv(tmp_path / f"out/scores_{protocol}.csv")
        names = ["psnr", "ssim", "vif", "vifp", "lpips"]
        assert list(rows[0]) == ["name", *(f"bicubic_{name}" for name in names), *names]
        for name, metric in (("vif", vif), ("vifp", vifp), ("lpips", Lpips(alexnet))):
            for prefix, x in (("bicubic_", up), ("", sr)):
                values = [float(row[prefix + name]) for row in rows]
                np.testing.assert_allclose(values, metric(x, hr, protocol), rtol=1e-6)
                assert score["ours" if not prefix else "bicubic"][name] == pytest.approx(np.mean(values))
        features = PatchMeans()
        for who, x in (("ours", sr), ("bicubic", up)):
            expected = fid(features(x, protocol), features(hr, protocol))
            assert score[who]["fid"] == pytest.approx(expected, rel=1e-6)
            assert score[who]["interval"]["fid"] is None
            low, high = score[who]["interval"]["vif"]
            assert low < score[who]["vif"] < high
        assert score["gain"]["lpips"] == pytest.approx(score["ours"]["lpips"] - score["bicubic"]["lpips"])
        assert score["gain"]["interval"]["lpips"][0] <= score["gain"]["lpips"] <= score["gain"]["interval"]["lpips"][1]


def test_metrics_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    common = ["--data.cache", str(tmp_path / "cache"), "--data.size", "80", "--data.limit", "2", "--out", str(out)]
    assert main(["evaluate", *common, "--metrics", "vif,psnr", "--confidence", "0"]) == 0
    printed = capsys.readouterr().out
    assert "interval" not in printed
    assert "[" not in printed
    assert "SSIM │" not in printed
    assert (out / "scores_fsr.csv").read_text().startswith("name,bicubic_vif,bicubic_psnr\n")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["interval"] is None
    assert list(summary["scores"]["fsr"]["bicubic"]) == ["vif", "psnr", "identical"]

    (tmp_path / "list.yaml").write_text("metrics: [ssim]\nresamples: 20\nconfidence: 0.8\n")
    assert main(["evaluate", *common, "--config", str(tmp_path / "list.yaml")]) == 0
    assert "80% interval of 20 resamples" in capsys.readouterr().out
    assert list(json.loads((out / "summary.json").read_text())["scores"]["fsr"]["bicubic"]) == ["ssim", "interval"]

    assert main(["evaluate", *common[:2], "--data.size", "64", "--metrics", "vif"]) == 2
    assert "VIF needs pictures of at least 72x72 pixels, got 64x64" in capsys.readouterr().err


def test_wrong_settings_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminet_fast.evaluate.run.open_faces", lambda *args: pytest.fail("opened the faces"))
    cases: list[tuple[EvaluateConfig, str]] = [
        (EvaluateConfig(metrics="psnr,vift"), "unknown metric 'vift'"),
        (EvaluateConfig(metrics=[]), "no metric is given"),
        (EvaluateConfig(confidence=95.0), r"confidence is 95\.0, wanted 0 .* or a part of 1"),
        (EvaluateConfig(resamples=0), "resamples is 0, wanted at least 1"),
    ]
    for config, words in cases:
        with pytest.raises(ValueError, match=words):
            evaluate(config)


def test_fid_of_one_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aminet_fast.metrics.metric_set.InceptionFeatures", PatchMeans)
    with pytest.raises(ValueError, match="FID compares sets of pictures, and this set has one"):
        evaluate(EvaluateConfig(data=drawn(tmp_path, limit=1), metrics="fid"))


def test_a_network_that_returns_nan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.clone().index_fill_(0, torch.tensor(0), math.nan)

    monkeypatch.setattr("aminet_fast.evaluate.run.load_network", lambda *args: Broken())
    config = EvaluateConfig(weights="net", data=drawn(tmp_path), metrics="ssim,vif", out=str(tmp_path / "out"))
    assert evaluate(config) == 1
    assert "NaN for 1 pictures" in capsys.readouterr().err
    score = json.loads((tmp_path / "out/summary.json").read_text())["scores"]["fsr"]
    assert score["ours"]["vif"] is None
    assert score["ours"]["interval"]["vif"] is None
    assert score["gain"]["interval"]["ssim"] is None
    low, high = score["bicubic"]["interval"]["vif"]
    assert low < score["bicubic"]["vif"] < high


@pytest.mark.usefixtures("darken")
def test_an_original_of_one_grey_has_no_pixel_vif(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "faces").mkdir()
    for i in range(3):
        draw_face(i, 80).save(tmp_path / "faces" / f"{i}.png")
    Image.new("RGB", (80, 80), (250, 240, 90)).save(tmp_path / "faces" / "flat.png")
    data = DataConfig(root=str(tmp_path / "faces"), cache=str(tmp_path / "cache"), size=80)
    config = EvaluateConfig(
        weights="net", data=data, split="all", metrics="psnr,ssim,vif,vifp", out=str(tmp_path / "out"), resamples=50
    )
    assert evaluate(config) == 1
    captured = capsys.readouterr()
    assert "VIF-P has no value for 1 of 4 pictures, whose originals are of one grey: flat.png; " in captured.out
    assert "its means are over the other 3\n" in captured.out
    assert "error: a metric has no value for some pictures" in captured.err
    rows = read_csv(tmp_path / "out/scores_fsr.csv")
    assert [math.isnan(float(row["vifp"])) for row in rows] == [False, False, False, True]
    assert all(math.isfinite(float(row["vif"])) and math.isfinite(float(row["ssim"])) for row in rows)
    score = json.loads((tmp_path / "out/summary.json").read_text())["scores"]["fsr"]
    assert score["undefined"] == {"vifp": ["flat.png"]}
    for who, column in (("ours", "vifp"), ("bicubic", "bicubic_vifp")):
        values = [float(row[column]) for row in rows[:3]]
        assert score[who]["vifp"] == pytest.approx(np.mean(values), rel=1e-12)
    assert score["gain"]["vifp"] == pytest.approx(score["ours"]["vifp"] - score["bicubic"]["vifp"])
    assert score["bicubic"]["identical"] == 1  # its PSNR is infinite, and left out in the same way


def test_means_leave_out_what_has_no_value() -> None:
    values, out = np.array([0.2, math.nan, 0.4, 0.3]), np.array([False, True, False, False])
    quality = Quality({"vifp": values}, undefined={"vifp": out})
    assert quality.mean("vifp") == pytest.approx(0.3)
    assert math.isnan(Quality({"vifp": values}).mean("vifp"))  # of a restored picture: that is to be seen
    assert math.isnan(Quality({"vifp": values[1:2]}, undefined={"vifp": out[1:2]}).mean("vifp"))
    many = np.concatenate([np.linspace(0.2, 0.4, 50), [math.nan]])
    quality = Quality({"vifp": many}, undefined={"vifp": np.isnan(many)})
    low, high = Scores("fsr", [""] * 51, quality, quality, ("vifp",)).intervals(resamples=200)["ours"]["vifp"] or (0, 0)
    assert 0.2 < low < 0.3 < high < 0.4


def scores(ours: Sequence[float], bicubic: Sequence[float]) -> Scores:
    names = [str(i) for i in range(len(ours))]
    return Scores("fsr", names, *(Quality({"psnr": np.array(x)}, 7.0) for x in (ours, bicubic)), ("psnr", "fid"))


def test_intervals_of_a_gain_are_paired() -> None:
    bicubic = np.random.default_rng(0).normal(23, 2, size=40)
    score = scores(bicubic + 3, bicubic)
    intervals = score.intervals()
    low, high = intervals["bicubic"]["psnr"] or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * bicubic.std() / math.sqrt(40), rel=0.1)
    assert low < bicubic.mean() < high
    assert intervals["gain"]["psnr"] == pytest.approx((3, 3), abs=1e-9)
    assert intervals == score.intervals()
    assert intervals["ours"]["fid"] is None
    tighter = score.intervals(0.5)["bicubic"]["psnr"] or (0, 0)
    assert tighter[1] - tighter[0] < (high - low) / 2
    assert score.gain("fid") == 0


def test_where_there_is_no_interval() -> None:
    assert scores([25.0], [24.0]).intervals() == {
        who: {"psnr": None, "fid": None} for who in ("bicubic", "ours", "gain")
    }
    some = scores([25.0, math.inf, 27.0], [24.0, 25.0, 26.0]).intervals(resamples=200)
    assert some["ours"]["psnr"] is None  # a draw of the identical picture alone has no mean
    assert some["bicubic"]["psnr"] is not None


def test_eight_real_faces(tmp_path: Path) -> None:
    if "AMINET_FACES" not in os.environ:
        pytest.skip("AMINET_FACES is not set: no real faces")
    (tmp_path / "faces").mkdir()
    for file in sorted((Path(os.environ["AMINET_FACES"]) / "test_b").iterdir())[:8]:
        shutil.copy(file, tmp_path / "faces")
    config = DataConfig(root=str(tmp_path / "faces"), cache=str(tmp_path / "cache"))
    score = evaluate_model(None, open_faces(config, "all"), metrics="psnr,ssim,vif,vifp").bicubic
    means = [score.mean(name) for name in ("psnr", "ssim", "vif", "vifp")]
    assert means == pytest.approx([23.745, 0.6584, 0.2658, 0.2425], abs=5e-4)
