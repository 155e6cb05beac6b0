"""The weights in the package: loaded without a network, small, as good as their card says."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from aminet_fast import AMINet, AMINetConfig, Expects, list_pretrained, load_model
from aminet_fast.data import DataConfig, open_faces
from aminet_fast.evaluate import evaluate_model
from aminet_fast.pretrained import CARD, WEIGHTS, save_half, shipped

FACES = os.environ.get("AMINET_FACES")
needs_faces = pytest.mark.skipif(not FACES, reason="AMINET_FACES names no folder of faces")


def card() -> tuple[dict, str]:
    folder = shipped("default")
    assert folder is not None
    _, front, text = (folder / CARD).read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), text


def test_it_loads_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    assert "default" in list_pretrained()
    model = AMINet.from_pretrained("default")
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    other = load_model("default").state_dict()
    assert all(torch.equal(value, other[key]) for key, value in model.state_dict().items())


def test_a_folder_of_that_name_is_reached_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=4)
    AMINet(config).save_pretrained(tmp_path / "default")
    monkeypatch.chdir(tmp_path)
    assert AMINet.from_pretrained("./default").config == load_model("./default").config == config
    assert AMINet.from_pretrained("default").config != config


def test_the_shipped_files_are_small_and_finite() -> None:
    folder = shipped("default")
    assert folder is not None
    assert (folder / WEIGHTS).stat().st_size <= 12_000_000
    for key, value in load_file(folder / WEIGHTS).items():
        assert value.isfinite().all(), key


def test_half_the_bytes_and_nothing_lost_but_float16_s_rounding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AMINet(AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=4))
    model(torch.randn(2, 3, 32, 32))
    model.save_pretrained(tmp_path / "whole")
    file = save_half(model, tmp_path / "half")
    # headers are much of so few weights
    assert file.stat().st_size < 0.7 * (tmp_path / "whole" / WEIGHTS).stat().st_size
    loaded = AMINet.from_pretrained(tmp_path / "half").state_dict()
    for key, value in model.state_dict().items():
        assert torch.allclose(loaded[key], value, rtol=2**-11, atol=2**-24), key
    assert torch.equal(loaded["head.weight"], model.state_dict()["head.weight"].half().float())
    statistics = [key for key in loaded if "running" in key]
    assert statistics
    assert all(torch.equal(loaded[key], model.state_dict()[key]) for key in statistics)


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    model = AMINet(AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=4))
    with torch.no_grad():
        model.head.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match=r"head\.weight is not finite in float16"):
        save_half(model, tmp_path)


def test_the_card_says_what_its_readers_must_know() -> None:
    front, text = card()
    assert front["library_name"] == "aminet_fast"
    assert front["license"] == "other"  # the pictures' terms allow research only
    for words in ("non-commercial", "identif", "UTKFace", "CelebA", "aminet train", "bicubic", "bias"):
        assert words.casefold() in text.casefold(), words
    for name in ("test_a", "test_b"):
        assert re.search(rf"\b{name}\b", text)


def scores_of_card() -> dict[str, dict[str, float]]:
    front, _ = card()
    return {
        result["dataset"]["name"]: {metric["name"]: metric["value"] for metric in result["metrics"]}
        for result in front["model-index"][0]["results"]
    }


@needs_faces
@pytest.mark.parametrize("name", ["test_a", "test_b"])
def test_it_beats_bicubic_on_held_out_faces(name: str) -> None:
    faces = open_faces(DataConfig(root=str(Path(FACES or "") / name), limit=24), "all")
    scores = evaluate_model(load_model("default"), faces)
    assert scores.gain_psnr > 2.8
    assert scores.gain_ssim > 0.1


@pytest.mark.slow
@needs_faces
@pytest.mark.parametrize("name", ["test_a", "test_b"])
def test_the_card_s_scores_are_what_the_weights_score(name: str) -> None:
    scores = evaluate_model(load_model("default"), open_faces(DataConfig(root=str(Path(FACES or "") / name)), "all"))
    stated = scores_of_card()[name]
    assert scores.ours.mean_psnr == pytest.approx(stated["PSNR"], abs=0.006)
    assert scores.ours.mean_ssim == pytest.approx(stated["SSIM"], abs=0.0006)
    assert scores.bicubic.mean_psnr == pytest.approx(stated["PSNR of bicubic"], abs=0.006)


def test_the_file_itself_says_what_it_expects(tmp_path: Path) -> None:
    """Its tensors' bytes are pinned: new weights have new scores on their card."""
    folder = shipped("default")
    assert folder is not None
    file = (folder / WEIGHTS).read_bytes()
    tensors = file[8 + int.from_bytes(file[:8], "little") :]
    assert hashlib.sha256(tensors).hexdigest() == "25095f66fd79aedc8489b40e0417251a80eeb8e773aed936a128462ce1c7a4f1"
    (tmp_path / WEIGHTS).write_bytes(file)
    alone, beside = load_model(tmp_path), load_model("default")
    assert (alone.config, alone.expects) == (beside.config, beside.expects)
    front, text = card()
    template = {"eye_distance": 0.33, "eye_height": 0.42}
    assert alone.expects == Expects.from_dict({"template": template, "licence": front["license_name"]})
    assert "0.33 of the side" in text
    assert "0.42 of it" in text
