"""Seeded random weights in the files that LPIPS and FID read, for tests without the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def random_alexnet(path: Path) -> dict[str, torch.Tensor]:
    """Writes the convolutions of torchvision's AlexNet to `path` and returns them."""
    models = pytest.importorskip("torchvision.models", reason="torchvision is not installed")
    torch.manual_seed(0)
    state = models.alexnet(weights=None).features.state_dict()
    state = {f"features.{key}": 3 * value for key, value in state.items()}  # so that no layer fades out
    torch.save(state, path)
    return state


def random_inception(path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Writes Inception's weights to `path` and returns the network that has them."""
    name = "torch_fidelity.feature_extractor_inceptionv3"
    module = pytest.importorskip(name, reason="torch-fidelity is not installed")
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        network = module.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.save(network.state_dict(), path)
    return network


def forbid_downloads(monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    """An empty torch.hub cache, and a failure for whoever wants to fill it."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(hub))

    def download(*args: object, **kwargs: object) -> None:
        pytest.fail("something was downloaded")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", download)
    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    for module in ("torchvision._internally_replaced_utils", "torch_fidelity.feature_extractor_inceptionv3"):
        try:
            monkeypatch.setattr(f"{module}.load_state_dict_from_url", download)
        except (ImportError, AttributeError):
            continue
