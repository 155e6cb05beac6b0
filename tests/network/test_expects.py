"""What weights expect: its fields, where it is stored and kept, and who refuses what."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from aminet_fast import AMINet, AMINetConfig, Expects, freeze, load_model
from aminet_fast.network.expects import Template, check_scale, check_served, expects_of
from aminet_fast.network.inference import load_network, restore
from aminet_fast.pretrained import save_half
from tests.training.tiny import MODEL

TINY = AMINetConfig.from_dict({**MODEL, "skaf": "edff"})
FOUR = Expects(scale=4, template={"eye_distance": 0.25, "eye_height": 0.5}, licence="CC BY 4.0")  # type: ignore[arg-type]


def test_it_is_plain_values_and_back() -> None:
    assert Expects().to_dict() == {
        "scale": 8,
        "input": "enlarged",
        "template": None,
        "range": [-1.0, 1.0],
        "colours": "rgb",
        "degradation": "bicubic",
        "licence": None,
    }
    assert FOUR.template == Template(0.25, 0.5)
    assert Expects.from_dict(json.loads(json.dumps(FOUR.to_dict()))) == FOUR
    assert Expects.from_dict({}) == Expects()
    assert hash(FOUR) == hash(copy.deepcopy(FOUR))


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"scale": 0}, ValueError, "expects.scale is 0; it must be at least 1"),
        ({"scale": 4.0}, TypeError, r"expects.scale is 4\.0; it takes an integer"),
        ({"scale": True}, TypeError, "expects.scale is True"),
        ({"input": "LR"}, ValueError, "expects.input is 'LR'; it takes one of enlarged, lr"),
        ({"template": {"eye_distance": 0.3}}, TypeError, "it takes eye_distance and eye_height"),
        ({"template": {"eye_distance": float("nan"), "eye_height": 0.4}}, ValueError, "eye_distance is nan"),
        ({"template": {"eye_distance": 33, "eye_height": 0.4}}, ValueError, "between 0 and 1"),
        ({"range": [1, -1]}, ValueError, "the second must be above the first"),
        ({"range": [0, float("inf")]}, ValueError, "expects.range is inf"),
        ({"range": 255}, TypeError, "it takes two numbers"),
        ({"colours": None}, ValueError, "expects.colours is None"),
        ({"degradation": ""}, TypeError, "expects.degradation is ''"),
        ({"licence": 3}, TypeError, "expects.licence is 3"),
        ({"blur": 1, "scale": 8}, ValueError, "no field blur in this version.*upgrade aminet_fast"),
        ([8], TypeError, "it takes a mapping"),
    ],
)
def test_what_cannot_be_is_named(values: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        Expects.from_dict(values)


def test_a_network_carries_it_through_every_copy(tmp_path: Path) -> None:
    model = AMINet(TINY, expects=FOUR)
    model.save_pretrained(tmp_path / "whole")
    save_half(model, tmp_path / "half")
    half = json.loads((tmp_path / "half/config.json").read_text())
    assert half == {**TINY.to_dict(), "expects": FOUR.to_dict()}
    assert AMINetConfig.from_file(tmp_path / "half/config.json") == TINY
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), freeze(copy.deepcopy(model))]
    loads = [load(tmp_path / name) for load in (load_model, AMINet.from_pretrained) for name in ("whole", "half")]
    assert [m.expects for m in (*copies, *loads)] == [FOUR] * 7
    wrapped = [nn.DataParallel(model), torch.compile(model), AveragedModel(model), nn.Sequential(model)]
    assert [expects_of(m) for m in wrapped] == [FOUR] * 4  # type: ignore[arg-type]
    assert expects_of(nn.Identity()) == AMINet(TINY).expects == Expects()
    model.expects = Expects(scale=2)
    assert model.expects.scale == 2
    with pytest.raises(TypeError, match=r"it takes an aminet_fast\.Expects"):
        model.expects = {"scale": 4}  # type: ignore[assignment]
    del model.__dict__["_expects"]  # as in a pickle from before
    assert model.expects == Expects()


def test_the_hub_is_sent_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    class Api:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> Api:
            self.repo_id = repo_id
            return self

        def upload_folder(self, *, folder_path: Path, **_: object) -> str:
            sent.update(json.loads((folder_path / "config.json").read_text()))
            sent["loaded"] = load_model(folder_path).expects
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    AMINet(TINY, "auto", FOUR).push_to_hub("me/faces")
    assert (sent["expects"], sent["width"], sent["loaded"]) == (FOUR.to_dict(), 4, FOUR)


def test_a_weights_file_alone_is_enough_and_equal_weights_are_equal_files(tmp_path: Path) -> None:
    model = AMINet(TINY, expects=FOUR)
    for name in ("a", "b"):
        model.save_pretrained(tmp_path / name)
    file = tmp_path / "a/model.safetensors"
    assert file.read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    # safetensors itself would shuffle the two from process to process
    assert file.read_bytes()[8:].startswith(b'{"__metadata__":{"format":"pt","aminet_fast":')
    (tmp_path / "a/config.json").unlink()
    for load in (load_model, AMINet.from_pretrained):
        lone = load(tmp_path / "a")
        assert (lone.config, lone.expects) == (TINY, FOUR)
        assert all(torch.equal(v, lone.state_dict()[k]) for k, v in model.state_dict().items())
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["aminet_fast"]) == {**TINY.to_dict(), "expects": FOUR.to_dict()}


def strip_header(file: Path) -> None:
    """As before weights files said anything."""
    save_file(load_file(file), file, metadata={"format": "pt"})


def test_weights_from_before_expect_the_defaults(tmp_path: Path) -> None:
    AMINet(TINY, expects=FOUR).save_pretrained(tmp_path / "old")
    strip_header(tmp_path / "old/model.safetensors")
    (tmp_path / "old/config.json").write_text(TINY.to_json())
    assert load_model(tmp_path / "old").expects == AMINet.from_pretrained(tmp_path / "old").expects == Expects()


def test_config_json_alone_says_it_too(tmp_path: Path) -> None:
    AMINet(TINY, expects=FOUR).save_pretrained(tmp_path)
    strip_header(tmp_path / "model.safetensors")
    assert load_model(tmp_path).expects == AMINet.from_pretrained(tmp_path).expects == FOUR


@pytest.mark.parametrize("change", [{"expects": {"scale": 8}}, {"dw_twice": True}, {"expects": {"new": 1}}])
def test_two_that_contradict_each_other_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    AMINet(TINY, expects=FOUR).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    said = {"expects": "scale: 8 and 4", "dw_twice": "dw_twice: True and False"}[next(iter(change))]
    for load in (load_model, AMINet.from_pretrained):
        with pytest.raises(ValueError, match="upgrade aminet_fast" if "new" in str(change) else f"contradict.*{said}"):
            load(tmp_path)
    values = TINY.to_dict()  # without a word of what they expect it contradicts nothing
    path.write_text(json.dumps(values))
    assert load_model(tmp_path).expects == FOUR


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": "lr"}, "expect input 'lr'.*input 'enlarged' alone"),
        ({"range": (0, 1)}, r"expect range \(0\.0, 1\.0\)"),
        ({"colours": "bgr"}, "expect colours 'bgr'"),
        ({"degradation": "camera"}, "expect degradation 'camera'"),
    ],
)
def test_what_this_version_cannot_give_is_refused_by_its_field(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    expects = Expects(**changes)
    with pytest.raises(ValueError, match=said):
        check_served(expects)
    model = AMINet(TINY, expects=expects)
    with pytest.raises(ValueError, match=said):
        restore(nn.DataParallel(model), torch.zeros(1, 3, 16, 16))
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=said):
        load_network(str(tmp_path), torch.device("cpu"))
    assert load_model(tmp_path).expects == expects  # to run it oneself


def test_another_scale_says_what_to_type() -> None:
    check_scale(Expects(), 8)
    with pytest.raises(ValueError, match=r"enlarge 4 times and the data settings say 8: pass --data\.scale 4$"):
        check_scale(FOUR, 8)
