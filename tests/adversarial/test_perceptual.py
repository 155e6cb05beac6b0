"""VGG19's features and the loss on them, under weights that the tests draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aminet_fast.adversarial import PerceptualLoss, VGG19Features, find_vgg19
from aminet_fast.adversarial.perceptual import LAYER_NAMES, LAYERS, SOURCE, WEIGHTS
from tests.adversarial.vgg19_weights import drawn_weights, write_weights


def face(seed: int, size: int = 32, count: int = 2) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def written_out(x: Tensor) -> dict[str, Tensor]:
    """Features up to relu3_1 in float64, by hand."""
    state = {k: v.double() for k, v in drawn_weights(last=10).items()}
    mean, std = torch.tensor([0.485, 0.456, 0.406]).double(), torch.tensor([0.229, 0.224, 0.225]).double()
    x = ((x.double() + 1) / 2 - mean[:, None, None]) / std[:, None, None]

    def convolve(x: Tensor, index: int) -> Tensor:
        return F.conv2d(x, state[f"features.{index}.weight"], state[f"features.{index}.bias"], padding=1)

    found = {"relu1_1": convolve(x, 0).relu()}
    found["conv1_2"] = convolve(found["relu1_1"], 2)
    found["pool1"] = F.max_pool2d(found["conv1_2"].relu(), 2)
    found["relu2_1"] = convolve(found["pool1"], 5).relu()
    found["relu3_1"] = convolve(F.max_pool2d(convolve(found["relu2_1"], 7).relu(), 2), 10).relu()
    return found


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_features_are_vgg19s(tmp_path: Path, suffix: str) -> None:
    names = ["relu3_1", "conv1_2", "relu1_1", "pool1", "relu2_1"]
    features = VGG19Features(write_weights(tmp_path / f"vgg{suffix}", last=10), names)
    assert features.layers == ["relu1_1", "conv1_2", "pool1", "relu2_1", "relu3_1"]
    wanted = written_out(face(0))
    for name, got in zip(features.layers, features(face(0)), strict=True):
        torch.testing.assert_close(got.double(), wanted[name], rtol=1e-4, atol=1e-5, msg=name)
    assert len(features.features) == LAYER_NAMES.index("relu3_1") + 1  # nothing behind it is computed


def test_the_loss_is_eq_19(tmp_path: Path) -> None:
    loss = PerceptualLoss(VGG19Features(write_weights(tmp_path / "vgg.pth", last=10), ["relu1_1", "relu2_1"]))
    ours, hr = face(1).requires_grad_(), face(2)
    value = loss(ours, hr)
    a, b = written_out(ours.detach()), written_out(hr)
    # 1/N over the pictures, 1/M over each one's values, summed over the layers
    wanted = sum(
        (a[name] - b[name]).abs().flatten(1).sum(1).div(a[name][0].numel()).mean() for name in ("relu1_1", "relu2_1")
    )
    assert value.item() == pytest.approx(float(wanted), rel=1e-5)
    value.backward()
    assert ours.grad is not None
    assert ours.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in loss.parameters())
    assert loss(hr, hr).item() == 0


def test_the_loss_is_float32_under_autocast(tmp_path: Path) -> None:
    loss = PerceptualLoss(VGG19Features(write_weights(tmp_path / "vgg.pth", last=5), ["relu1_1", "relu2_1"]))
    exact = loss(face(1), face(2))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(face(1), face(2))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-2)


def test_all_layers_are_torchvisions(tmp_path: Path) -> None:
    """The default layers under torchvision's own network, in float64."""
    vgg = pytest.importorskip("torchvision", reason="torchvision is no dependency").models.vgg19(weights=None).features
    for key, value in drawn_weights(last=34).items():
        vgg.get_parameter(key.removeprefix("features.")).data = value.double()
    features = VGG19Features(write_weights(tmp_path / "vgg.pth", last=28))
    x = face(3, count=1)
    y = (x.double() - (2 * features.mean - 1)) / (2 * features.std)
    wanted = []
    for layer in vgg[:30]:
        layer.inplace = False
        y = layer(y)
        wanted.append(y)
    for index, got in zip((1, 6, 11, 20, 29), features(x), strict=True):
        torch.testing.assert_close(got.double(), wanted[index], rtol=1e-4, atol=1e-4)
    kinds = [type(layer).__name__[:4].lower().replace("maxp", "pool") for layer in vgg]
    assert kinds == [name.split("_")[0].rstrip("12345") for name in LAYER_NAMES]
    assert tuple(LAYER_NAMES[i] for i in (1, 6, 11, 20, 29)) == LAYERS


@pytest.mark.parametrize("layers", [[], ["relu1_3"], ["relu1_1", "fc6"]])
def test_wrong_layers_are_refused(tmp_path: Path, layers: list[str]) -> None:
    with pytest.raises(ValueError, match="names of VGG19's layers: conv1_1 to conv5_4"):
        VGG19Features(tmp_path / "vgg.pth", layers)


def test_wrong_files_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        VGG19Features(tmp_path / "gone.pth")
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), "features.0.bias": torch.zeros(32)}, tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    for name, key in (("a", "features.0.bias"), ("b", "features.0.weight")):
        with pytest.raises(ValueError, match=f"{name}.pth holds no weights of VGG19: {key} is missing"):
            VGG19Features(tmp_path / f"{name}.pth", ["relu1_1"])
    for suffix in ("pth", "safetensors"):
        (tmp_path / f"c.{suffix}").write_bytes(b"<html>not found</html>")
        with pytest.raises(ValueError, match=rf"c\.{suffix}"):
            VGG19Features(tmp_path / f"c.{suffix}")
    write_weights(tmp_path / "short.pth", last=5)
    with pytest.raises(ValueError, match=r"features.7.weight is missing"):
        VGG19Features(tmp_path / "short.pth", ["relu2_2"])


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"features.0.weight": Attack()}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match="does not load as weights"):
        VGG19Features(tmp_path / "vgg.pth")
    assert not (tmp_path / "ran").exists()


def test_weights_are_looked_for_and_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    cached = tmp_path / "hub/checkpoints" / WEIGHTS
    for given, missing in ((None, cached), (str(tmp_path / "mine.pth"), tmp_path / "mine.pth")):
        with pytest.raises(FileNotFoundError, match=f"VGG19 at {missing}, and nothing is downloaded") as caught:
            find_vgg19(given)
        message = str(caught.value)
        assert SOURCE in message
        assert "--gan.vgg FILE" in message
        assert "\n" not in message
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_vgg19(None) == cached
    with pytest.raises(FileNotFoundError):
        find_vgg19(str(tmp_path / "mine.pth"))
