"""AMINet's saving and loading, foreign state dicts, and padding to sizes the network takes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import aminet_fast
from aminet_fast import AMINet, AMINetConfig, load_model, pad_to_multiple

TINY = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=4)


@pytest.fixture
def model() -> AMINet:
    torch.manual_seed(0)
    model = AMINet(TINY)
    model(torch.randn(2, 3, 32, 32))  # moves the running statistics off their defaults
    return model.eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def test_save_and_load(model: AMINet, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    loaded = AMINet.from_pretrained(tmp_path)
    assert loaded.config == TINY
    assert not loaded.training
    assert same(model, loaded)


@pytest.mark.parametrize("where", ["", "best", "last", "best/model.safetensors"])
def test_load_model_finds_weights(model: AMINet, tmp_path, where: str) -> None:
    model.save_pretrained(tmp_path / where.split("/")[0])
    assert same(model, load_model(tmp_path / where if "." in where else tmp_path))


def test_best_is_preferred_to_last(model: AMINet, tmp_path) -> None:
    model.save_pretrained(tmp_path / "best")
    AMINet(TINY).save_pretrained(tmp_path / "last")
    assert same(model, load_model(tmp_path))


def test_load_model_says_what_it_looked_for(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"looked for model\.safetensors"):
        load_model(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no"):
        load_model(tmp_path / "gone.pt")


def test_a_folder_that_does_not_say_what_network_it_holds(tmp_path) -> None:
    state = AMINet(TINY.replace(attention_scale="sqrt")).state_dict()
    save_file(dict(state), tmp_path / "model.safetensors")
    for load in (load_model, AMINet.from_pretrained):
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            load(tmp_path)


def test_a_truncated_weights_file(model: AMINet, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    for load in (load_model, AMINet.from_pretrained):
        with pytest.raises(ValueError, match="no readable safetensors file"):
            load(tmp_path)


def test_a_foreign_configuration_is_refused(model: AMINet, tmp_path) -> None:
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 768}))
    with pytest.raises(ValueError, match="hidden_size"):
        AMINet.from_pretrained(tmp_path)


@pytest.mark.parametrize("wrap", ["data_parallel", "compile", "both"])
def test_wrapped_state_dicts_load(model: AMINet, wrap: str) -> None:
    wrapped: nn.Module = model
    if wrap != "data_parallel":
        wrapped = torch.compile(wrapped)  # type: ignore[assignment]
    if wrap != "compile":
        wrapped = nn.DataParallel(wrapped)
    state = wrapped.state_dict()
    assert not set(state) & set(model.state_dict())
    fresh = AMINet(TINY)
    fresh.load_state_dict(state)
    assert same(model, fresh)


def test_missing_and_unknown_keys_are_all_named(model: AMINet) -> None:
    state = model.state_dict()
    del state["head.bias"], state["mid.1.rdfe.fuse.weight"]
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(RuntimeError) as error:
        AMINet(TINY).load_state_dict(state)
    for line in ("2 missing", "head.bias", "mid.1.rdfe.fuse.weight", "1 unknown", "extra.weight"):
        assert line in str(error.value)
    result = AMINet(TINY).load_state_dict(state, strict=False)
    assert result.missing_keys == ["head.bias", "mid.1.rdfe.fuse.weight"]
    assert result.unexpected_keys == ["extra.weight"]


def test_weights_of_another_width_name_the_shapes(model: AMINet) -> None:
    with pytest.raises(RuntimeError, match=r"head\.weight: \[4, 3, 3, 3\] given, \[8, 3, 3, 3\] wanted"):
        AMINet(TINY.replace(width=8)).load_state_dict(model.state_dict(), strict=False)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (1, 1), (100, 75)])
def test_pad_and_crop(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size)
    padded, crop = pad_to_multiple(x)
    assert [s % 16 for s in padded.shape[-2:]] == [0, 0]
    assert max(padded.shape[-2] - size[0], padded.shape[-1] - size[1]) < 16
    assert torch.equal(crop(padded), x)
    assert torch.equal(padded[..., : size[0], -1], x[..., -1])


def test_names_of_networks_and_their_error() -> None:
    assert AMINet("aminet-nano").config.width == 8
    with pytest.raises(ValueError, match="there are aminet"):
        AMINet("aminet-nanoo")


def test_the_package_says_what_it_has() -> None:
    assert aminet_fast.AMINet is AMINet
    assert "AMINet" in dir(aminet_fast)
    with pytest.raises(AttributeError, match="no attribute 'AMInet'"):
        _ = aminet_fast.AMInet


def test_it_is_a_plain_module_in_somebodys_loop() -> None:
    torch.manual_seed(0)
    model = AMINet(TINY)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    target = torch.rand(4, 3, 32, 32) * 2 - 1
    blurred = nn.functional.avg_pool2d(target, 5, 1, 2)
    losses = []
    for _ in range(30):
        loss = (model(blurred) - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.93 * losses[0]


def test_a_saved_network_s_card_names_no_licence(tmp_path):
    """Weights have the terms of the faces that they were trained on, not the code's."""
    AMINet(TINY).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "library_name: aminet_fast" in card
    assert "license" not in card
