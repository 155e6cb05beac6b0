"""State dicts of other programs: found in their files, read off their shapes, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from aminet_fast import AMINet, AMINetConfig, Expects, get_config, list_configs, load_model, reference
from aminet_fast.network.shapes import UntoldError, config_of
from tests.training.tiny import MODEL

TINY = AMINetConfig.from_dict(MODEL)
State = dict[str, Any]


@pytest.fixture(scope="module")
def model() -> AMINet:
    torch.manual_seed(0)
    model = AMINet(TINY)
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(torch.rand_like(value) if value.is_floating_point() else 3)
    return model.eval()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeroed(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


KINDS = {
    "plain": lambda s: s,
    "params": lambda s: {"params": s},
    "averaged first": lambda s: {"params": zeroed(s), "params_ema": s},
    "lightning": lambda s: {"state_dict": {**prefixed("net.", s), "loss.vgg.weight": torch.ones(1)}, "epoch": 3},
    "ddp of a compiled one": lambda s: {"model": prefixed("module._orig_mod.", s), "optimizer": {"state": {}}},
    "compiled parts": lambda s: {k.replace("enc.0.", "enc.0._orig_mod."): v for k, v in s.items()},
    "gan": lambda s: {"generator": s, "discriminator": {"head.weight": torch.ones(1)}},
    "before counters": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "bfloat16": lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize(("kind", "zipped"), [*((kind, True) for kind in KINDS), ("params", False)])
def test_a_file_of_another_program_loads(model: AMINet, tmp_path: Path, kind: str, zipped: bool) -> None:
    held = KINDS[kind](dict(model.state_dict()))
    torch.save(held, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    for load in (load_model, AMINet.from_pretrained):
        loaded = load(tmp_path / "x.pth")
        assert (loaded.config, loaded.expects, loaded.training) == (TINY, Expects(), False)
        for key, value in model.state_dict().items():
            if kind == "before counters" and key.endswith("num_batches_tracked"):
                continue
            wanted = value.bfloat16().float() if kind == "bfloat16" and value.is_floating_point() else value
            assert torch.equal(loaded.state_dict()[key], wanted), key


def test_an_average_of_weights_loads_as_a_file_and_as_a_state_dict(model: AMINet, tmp_path: Path) -> None:
    state = AveragedModel(model).state_dict()
    assert "n_averaged" in state
    torch.save(state, tmp_path / "x.pt")
    fresh = AMINet(TINY)
    fresh.load_state_dict(state)
    for loaded in (fresh, load_model(tmp_path / "x.pt")):
        assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def test_safetensors_without_a_word_and_with_a_prefix(model: AMINet, tmp_path: Path) -> None:
    save_file(prefixed("net.", dict(model.state_dict())), tmp_path / "x.safetensors")
    assert load_model(tmp_path / "x.safetensors").config == TINY
    (tmp_path / "x.safetensors").rename(tmp_path / "x.bin")  # told by what is in it
    assert torch.equal(load_model(tmp_path / "x.bin").head.weight, model.head.weight)


def test_config_json_beside_the_file_comes_before_its_shapes(tmp_path: Path) -> None:
    config = TINY.replace(sa=True, attention_scale="sqrt", heads=[1, 2, 2, 4])
    other = AMINet(config, expects=Expects(scale=4))
    other.save_pretrained(tmp_path)
    torch.save({"params": other.state_dict()}, tmp_path / "x.pth")
    loaded = load_model(tmp_path / "x.pth")
    assert (loaded.config, loaded.expects.scale) == (config, 4)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r'no config\.json beside it.*heads where attention_scale is "sqrt"'):
        load_model(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (
            {"conv_first.weight": torch.ones(1), "body.weight": torch.ones(1)},
            "holds no AMINet: its keys are conv_first",
        ),
        ({f"a.{i}": torch.ones(1) for i in range(900)}, r"a\.0, a\.1, a\.2, and 897 more; all .*: a 900"),
        ([1, 2], "it holds a list"),
        ({}, "an empty mapping"),
    ],
)
def test_another_network_is_named_in_one_line(tmp_path: Path, held: object, said: str) -> None:
    torch.save(held, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=said) as caught:
        load_model(tmp_path / "x.pth")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_two_networks_in_one_file_are_not_chosen_between(model: AMINet, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    torch.save({"state_dict": {**prefixed("net.", state), **prefixed("net_ema.", state)}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"several AMINets \(state_dict\.net\. and state_dict\.net_ema\.\)"):
        load_model(tmp_path / "x.ckpt")


def test_files_that_are_no_whole_file(model: AMINet, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "zip.pt")
    torch.save(model.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    model.save_pretrained(tmp_path / "w")
    for path, said in (
        (tmp_path / "zip.pt", "cut short"),
        (tmp_path / "old.pt", "does not load"),
        (tmp_path / "w/model.safetensors", "no readable safetensors"),
    ):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=said):
            load_model(path)
        path.write_bytes(b"")
        with pytest.raises(ValueError, match="it is empty" if path.suffix == ".pt" else said):
            load_model(path)


def test_a_program_and_a_pickled_network_are_called_what_they_are(model: AMINet, tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match="TorchScript program"):
        load_model(tmp_path / "x.pt")
    torch.save(model, tmp_path / "y.pt")
    with pytest.raises(ValueError, match=r"would run code \(aminet_fast.*Nothing in it was executed.*save_pretrained"):
        load_model(tmp_path / "y.pt")


def test_a_state_dict_with_a_prefix_is_no_1200_lines(model: AMINet) -> None:
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(prefixed("net.", dict(model.state_dict())))
    said = str(caught.value)
    assert len(said.splitlines()) <= 12
    own = [key for key in model.state_dict() if not key.endswith("num_batches_tracked")]
    of_enc = sum(key.startswith("enc.") for key in own)
    for words in (f"{len(own)} missing", "363 unknown", "net 363", f"enc {of_enc}", 'k.removeprefix("net.")'):
        assert words in said
    with pytest.raises(RuntimeError, match="another network's: no key of an AMINet"):
        model.load_state_dict({"conv.weight": torch.ones(1)})


CHANGES: list[dict[str, Any]] = [
    {"attention_unit": "pixel"},
    {"frm_convs": 3, "hourglass_depth": 2},
    {"lgfi_merge": "concat", "skaf_conv": "half"},
    {"skaf_conv": "depthwise", "down": "unshuffle", "up": "nearest"},
    {"skaf_pool_axis": "spatial", "up": "transposed"},
    {"local": "ffn", "ffn_expansion": 1.7, "ffn_depth": 2, "heads": (2, 2, 2, 2)},
    {"block": "transformer", "transformer_depth": 2},
    {"skaf_kernels": (), "dw_twice": False},
]
UNTOLD = {"skaf-without-pools", "skaf-without-conv5-pools", "skaf-without-max", "skaf-without-avg"}


def shapes(config: AMINetConfig) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return reference.AMINet(config).state_dict()


@pytest.mark.parametrize("name", list_configs())
def test_shapes_tell_every_named_network_or_say_what_they_do_not(name: str) -> None:
    config = get_config(name)
    if name in UNTOLD:
        with pytest.raises(UntoldError, match="skaf_pools"):
            config_of(shapes(config))
    else:
        assert config_of(shapes(config)) == config


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "+".join(change))
def test_shapes_tell_other_readings_of_the_paper(change: dict[str, Any]) -> None:
    wanted = AMINetConfig(width=8).replace(**change)
    found = config_of(shapes(wanted))
    assert int(8 * 8 * found.ffn_expansion) == int(8 * 8 * wanted.ffn_expansion)
    assert found.replace(ffn_expansion=2.66) == wanted.replace(ffn_expansion=2.66)


def test_shapes_of_no_aminet_are_untold() -> None:
    state = shapes(TINY)
    for broken in ({**state, "x": torch.ones(1)}, {**state, "mid.0.norm.weight": torch.ones(3)}, {}):
        with pytest.raises(UntoldError, match="no AMINet's"):
            config_of(broken)
