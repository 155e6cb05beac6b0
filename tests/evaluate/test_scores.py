from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from aminet_fast import Expects
from aminet_fast.commands.cli import main
from aminet_fast.data import DataConfig, degrade, open_faces, to_image, to_tensor
from aminet_fast.evaluate import EvaluateConfig, evaluate, evaluate_model, evaluate_protocols
from aminet_fast.metrics import psnr, ssim
from tests.restoration.inputs import Lopsided

SIZE = 48  # LR faces of 6x6


class Faces(torch.utils.data.Dataset):
    """Seeded smooth pictures with their bicubic versions, items as FaceDataset gives them."""

    def __init__(self, n: int = 5, *, has_hr: bool = True, size: int = SIZE) -> None:
        g = torch.Generator().manual_seed(3)
        self.names = [f"{i}.png" for i in range(n)]
        self.items = []
        for name in self.names:
            small = torch.rand(1, 3, 9, 9, generator=g) * 2 - 1
            hr = to_image(nn.functional.interpolate(small, size=size, mode="bicubic")[0])
            lr, up = degrade(hr)
            item = {"input": to_tensor(up), "lr": to_tensor(lr), "name": name}
            self.items.append(item | {"hr": to_tensor(hr)} if has_hr else item)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, object]:
        return self.items[index]


class Brighten(nn.Module):
    """Adds a constant; batch norm shows whether it ran in eval mode."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))
        self.norm = nn.BatchNorm2d(3, affine=False, eps=0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + self.by


def test_scores_are_those_of_the_single_pictures() -> None:
    faces, model = Faces(), Brighten(0.1)
    scores = evaluate_protocols(model, faces, ("fsr", "exact"), batch_size=2)  # type: ignore[arg-type]
    assert list(scores) == ["fsr", "exact"]
    for protocol, score in scores.items():
        assert score.protocol == protocol
        assert score.names == faces.names
        for i, item in enumerate(faces.items):
            up, hr = item["input"][None], item["hr"][None]
            assert score.bicubic.psnr[i] == psnr(up, hr, protocol).item()
            assert score.bicubic.ssim[i] == pytest.approx(ssim(up, hr, protocol).item(), abs=1e-12)
            assert score.ours.psnr[i] == pytest.approx(psnr(up + 0.1, hr, protocol).item(), abs=1e-3)
        assert score.gain_psnr == pytest.approx(score.ours.psnr.mean() - score.bicubic.psnr.mean())
        assert score.gain_psnr < -0.3
    assert scores["fsr"].bicubic.mean_psnr != scores["exact"].bicubic.mean_psnr


def test_model_is_left_as_it_was() -> None:
    model = Brighten(0.0).train()
    before = model.norm.running_mean.clone()
    score = evaluate_model(model, Faces(2), batch_size=2)  # type: ignore[arg-type]
    assert model.training
    assert model.norm.training
    assert torch.equal(model.norm.running_mean, before)
    # in eval mode the untouched statistics make the norm the identity
    np.testing.assert_allclose(score.ours.psnr, score.bicubic.psnr, rtol=0, atol=1e-3)


def test_bicubic_alone_and_any_batch_size() -> None:
    faces = Faces()
    one = evaluate_model(None, faces, batch_size=1)  # type: ignore[arg-type]
    many = evaluate_model(None, faces, batch_size=64)  # type: ignore[arg-type]
    np.testing.assert_array_equal(one.ours.psnr, one.bicubic.psnr)
    np.testing.assert_array_equal(one.bicubic.psnr, many.bicubic.psnr)
    np.testing.assert_allclose(one.bicubic.ssim, many.bicubic.ssim, rtol=0, atol=1e-12)
    assert one.gain_psnr == 0.0


@pytest.mark.parametrize(
    ("expects", "scale", "said"),
    [
        (Expects(scale=4), 8, r"enlarge 4 times and the data settings say 8: pass --data\.scale 4"),
        (Expects(), 2, r"enlarge 8 times and the data settings say 2: pass --data\.scale 8"),
        (Expects(colours="bgr"), 8, "expect colours 'bgr'"),
    ],
)
def test_faces_that_the_weights_are_not_for_are_refused(expects: Expects, scale: int, said: str) -> None:
    model, faces = Brighten(0.0), Faces(2)
    model.expects, faces.scale = expects, scale  # type: ignore[assignment, attr-defined]
    with pytest.raises(ValueError, match=said):
        evaluate_model(nn.DataParallel(model), faces)  # type: ignore[arg-type]


def test_sizes_that_are_no_multiple_of_16_are_padded() -> None:
    faces = Faces(2, size=40)
    seen = []

    class Watch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape))
            return x

    score = evaluate_model(Watch(), faces, batch_size=2)  # type: ignore[arg-type]
    assert seen == [(2, 3, 48, 48)]
    np.testing.assert_array_equal(score.ours.psnr, score.bicubic.psnr)


def test_the_scores_of_a_flip_ensemble_are_those_of_the_mean() -> None:
    faces = Faces(3)
    scores = evaluate_protocols(Lopsided(), faces, batch_size=2, ensemble="flip")  # type: ignore[arg-type]
    for protocol, score in scores.items():
        wanted = [psnr(item["input"][None] + 20 / 127.5, item["hr"][None], protocol).item() for item in faces.items]
        np.testing.assert_allclose(score.ours.psnr, wanted, rtol=0, atol=1e-3)
    alone = evaluate_model(None, faces, ensemble="flip")  # type: ignore[arg-type]
    np.testing.assert_array_equal(alone.ours.psnr, scores["fsr"].bicubic.psnr)


def test_identical_pictures_do_not_hide_the_others() -> None:
    faces = Faces(3)
    faces.items[0]["input"] = faces.items[0]["hr"]
    score = evaluate_model(None, faces)  # type: ignore[arg-type]
    assert score.bicubic.identical == 1
    assert score.bicubic.psnr[0] == math.inf
    assert score.bicubic.mean_psnr == pytest.approx(score.bicubic.psnr[1:].mean())


def test_sets_that_cannot_be_scored() -> None:
    with pytest.raises(ValueError, match="aminet upscale"):
        evaluate_model(None, Faces(2, has_hr=False))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="empty"):
        evaluate_model(None, Faces(0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'matlab'"):
        evaluate_model(None, Faces(2), protocol="matlab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^ensemble is 'mirror', wanted none or flip$"):
        evaluate_model(None, Faces(0), ensemble="mirror")  # type: ignore[arg-type]


def drawn(tmp_path: Path, **settings: object) -> DataConfig:
    return DataConfig(cache=str(tmp_path / "cache"), size=48, limit=3, **settings)  # type: ignore[arg-type]


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_command_scores_a_saved_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from aminet_fast import AMINet, AMINetConfig

    torch.manual_seed(0)
    AMINet(AMINetConfig(width=4, hourglass_width=4)).save_pretrained(tmp_path / "net")
    out = tmp_path / "out"
    config = EvaluateConfig(
        weights=str(tmp_path / "net"),
        data=drawn(tmp_path),
        protocol="both",
        out=str(out),
        save_images=True,
        batch_size=2,
    )
    assert evaluate(config) == 0
    printed = capsys.readouterr().out
    for word in ("3 faces (test)", "bicubic", "AMINet", "gain", "(fsr)", "(exact)"):
        assert word in printed

    faces = open_faces(config.data, "test")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["data"]["fingerprint"] == faces.fingerprint
    for protocol in ("fsr", "exact"):
        rows = read_csv(out / f"scores_{protocol}.csv")
        assert [row["name"] for row in rows] == faces.names
        assert list(rows[0]) == ["name", "bicubic_psnr", "bicubic_ssim", "psnr", "ssim"]
        for key in ("bicubic_psnr", "bicubic_ssim", "psnr", "ssim"):
            who = "bicubic" if key.startswith("bicubic_") else "ours"
            mean = summary["scores"][protocol][who][key.removeprefix("bicubic_")]
            assert np.mean([float(row[key]) for row in rows]) == pytest.approx(mean)
    # Saved pictures are what "exact" scored.
    saved = sorted((out / "images").rglob("*.png"))
    assert len(saved) == 3
    row = read_csv(out / "scores_exact.csv")[0]
    first = to_tensor(Image.open(out / "images" / Path(faces.names[0]).with_suffix(".png")))
    again = psnr(first[None], faces[0]["hr"][None], "exact").item()  # type: ignore[index]
    assert float(row["psnr"]) == pytest.approx(again, abs=1e-9)


def test_command_scores_bicubic_without_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(EvaluateConfig(data=drawn(tmp_path), out=str(tmp_path / "out"))) == 0
    assert "AMINet" not in capsys.readouterr().out
    assert (tmp_path / "out" / "scores_fsr.csv").read_text().startswith("name,bicubic_psnr,bicubic_ssim\n")
    assert list(json.loads((tmp_path / "out" / "summary.json").read_text())["scores"]["fsr"]) == ["bicubic"]


@pytest.mark.parametrize(
    ("weights", "ensemble", "told", "row"),
    [("net", "flip", "flip", "AMINet, flip"), ("net", "none", "none", "AMINet"), ("bicubic", "flip", "none", None)],
)
def test_command_tells_scores_of_an_ensemble_from_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    weights: str,
    ensemble: str,
    told: str,
    row: str | None,
) -> None:
    monkeypatch.setattr("aminet_fast.evaluate.run.load_network", lambda *args: Lopsided())
    cache, out = tmp_path.parent / "drawn", tmp_path / "out"
    faces = ["--data.size", "48", "--data.limit", "3", "--data.drawn", "64", "--data.cache", str(cache)]
    assert main(["evaluate", "--weights", weights, "--ensemble", ensemble, "--out", str(out), *faces]) == 0
    printed = capsys.readouterr().out
    assert [line.split("│")[1].strip() for line in printed.splitlines() if "│ AMINet" in line] == ([row] if row else [])
    assert ("the mean of its results for each picture and for its mirror image" in printed) == (told == "flip")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["ensemble"] == told
    if row is not None:
        held = open_faces(DataConfig(size=48, limit=3, drawn=64, cache=str(cache)), "test")
        score = evaluate_model(Lopsided(), held, ensemble=ensemble)  # type: ignore[arg-type]
        assert summary["scores"]["fsr"]["ours"]["psnr"] == score.ours.mean_psnr


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    cases = [
        (EvaluateConfig(weights=str(tmp_path / "none"), data=drawn(tmp_path)), "there is no"),
        (EvaluateConfig(data=drawn(tmp_path, root=str(tmp_path / "nowhere"))), "does not exist"),
        (EvaluateConfig(data=drawn(tmp_path), save_images=True), "--out"),
        (EvaluateConfig(data=drawn(tmp_path), device="warp"), "'warp'"),
        (EvaluateConfig(data=drawn(tmp_path), batch_size=0), "batch_size is 0"),
        (
            EvaluateConfig(weights=str(tmp_path / "none"), ensemble="mirror"),  # type: ignore[arg-type]
            "^ensemble is 'mirror', wanted none or flip$",
        ),
    ]
    for config, words in cases:
        with pytest.raises((ValueError, OSError), match=words):
            evaluate(config)


def test_an_unusable_folder_is_told_before_anything_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after an hour of scoring, whose results would be lost."""
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr("aminet_fast.evaluate.run.evaluate_protocols", lambda *args, **kwargs: pytest.fail("scored"))
    with pytest.raises(OSError, match=r"cannot write the folder of scores .*file: File exists; .*--out"):
        evaluate(EvaluateConfig(data=drawn(tmp_path), out=str(tmp_path / "file")))


def test_weights_of_another_width_are_one_line(tmp_path: Path) -> None:
    from aminet_fast import AMINet, AMINetConfig

    AMINet(AMINetConfig(width=4, hourglass_width=4)).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file), file)  # from before it said itself what network it is
    config = AMINetConfig(width=8, hourglass_width=4).to_json()
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"\(width 8, \d+ keys\): \d+ of another shape: .*config\.json") as caught:
        evaluate(EvaluateConfig(weights=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_command_refuses_lr_only_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SCface as it is distributed: pictures of the surveillance cameras, and no originals."""
    cameras = tmp_path / "SCface" / "surveillance_cameras_all"
    cameras.mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (75, 100), (number, 90, 120)).save(cameras / f"{number:03}_cam1_1.jpg")
    root = str(tmp_path / "SCface")
    options = ["evaluate", "--data.root", root, "--data.cache", str(tmp_path / "cache"), "--out", str(tmp_path / "o")]
    assert main(options) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"the 2 faces of {root} are LR pictures without originals" in error
    assert f"aminet upscale {root} --weights RUN --out DIR" in error
    assert not (tmp_path / "o").exists()


def script_scores(file: Path) -> tuple[float, float]:
    """Bicubic's PSNR and SSIM of one picture by the papers' recipe, with Pillow and scikit-image alone."""
    from skimage.metrics import structural_similarity

    with Image.open(file) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = round((rgb.width - side) / 2), round((rgb.height - side) / 2)
    hr = rgb.crop((left, top, left + side, top + side)).resize((128, 128), Image.Resampling.BICUBIC)
    up = hr.resize((16, 16), Image.Resampling.BICUBIC).resize((128, 128), Image.Resampling.BICUBIC)
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    a, b = ((16 + np.matmul(np.asarray(x), weights)).astype(np.uint8) for x in (hr, up))
    mse = np.mean(np.square(a.astype(float) - b.astype(float)))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    return 10 * math.log10(255**2 / mse), float(structural_similarity(a, b, **options))


@pytest.mark.parametrize(("folder", "means"), [("test_a", (24.083, 0.6559)), ("test_b", (23.597, 0.6560))])
def test_bicubic_on_real_faces(tmp_path: Path, folder: str, means: tuple[float, float]) -> None:
    if "AMINET_FACES" not in os.environ:
        pytest.skip("AMINET_FACES is not set: no real faces")
    pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    root = Path(os.environ["AMINET_FACES"]) / folder
    faces = open_faces(DataConfig(root=str(root), cache=str(tmp_path)), "all")
    score = evaluate_model(None, faces, batch_size=32).bicubic
    assert (score.mean_psnr, score.mean_ssim) == pytest.approx(means, abs=5e-4)
    for i in range(0, len(faces), 10):
        psnr_i, ssim_i = script_scores(root / faces.names[i])
        # the script's float sum is now and then a level darker than the exact luma
        assert score.psnr[i] == pytest.approx(psnr_i, abs=2e-3)
        assert score.ssim[i] == pytest.approx(ssim_i, abs=1e-4)


def test_restored_pictures_never_go_among_the_faces(tmp_path: Path) -> None:
    """They would replace originals of the same name, or be scored as faces the next time."""
    (tmp_path / "my" / "images").mkdir(parents=True)
    Image.new("RGB", (48, 48)).save(tmp_path / "my" / "images" / "a.png")
    before = (tmp_path / "my" / "images" / "a.png").read_bytes()
    for root in (tmp_path / "my", tmp_path / "my" / "images"):
        config = EvaluateConfig(
            data=drawn(tmp_path, root=str(root)), split="all", out=str(tmp_path / "my"), save_images=True
        )
        with pytest.raises(ValueError, match=r"lies in the set of faces .*; choose another --out"):
            evaluate(config)
    assert (tmp_path / "my" / "images" / "a.png").read_bytes() == before


def test_a_device_without_memory_for_the_network_is_not_a_wrong_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    monkeypatch.setattr("aminet_fast.network.inference.load_model", full)
    with pytest.raises(ValueError, match="no memory on cpu for the network of default; free some, or use --device cpu"):
        evaluate(EvaluateConfig(weights="default"))
