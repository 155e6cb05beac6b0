"""What a name or a path means, and that no connection is opened to find out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled

from aminet_fast import AMINet, AMINetConfig, load_model
from tests.training.tiny import MODEL

TINY = AMINetConfig.from_dict(MODEL)
LOADS = (AMINet.from_pretrained, load_model)


@pytest.fixture(autouse=True)
def nothing_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr("aminet_fast.network.locate.hf_hub_download", refuse)
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", refuse)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("./runs/missing", "there is no runs/missing; weights are default"),
        ("runs/missing", "there is no runs/missing"),  # where aminet train writes
        ("here/missing", "there is no here/missing"),
        ("a/b/c", "there is no a/b/c"),
        ("owner/net.safetensors", r"there is no owner/net\.safetensors"),
        ("~/missing", f"there is no {os.path.expanduser('~')}/missing"),
        ("defualt", r"did you mean default\?"),
        ("aminet", "there is no aminet; weights are"),
        (Path("default"), 'called by text: "default"'),
        ("./default", 'there is no folder default here; the weights of the package are called by text: "default"'),
        (Path("owner/name"), "there is no owner/name"),
    ],
)
def test_what_can_only_be_a_path_is_not_asked_for(name: Any, said: str) -> None:
    Path("here").mkdir()
    for load in LOADS:
        with pytest.raises(FileNotFoundError, match=said) as caught:
            load(name)
        assert "\n" not in str(caught.value)


def test_both_take_whatever_training_left(tmp_path: Path) -> None:
    AMINet(TINY).save_pretrained(tmp_path / "runs/one/last")
    for load in LOADS:
        for name in ("runs/one", tmp_path / "runs/one", "runs/one/last/model.safetensors"):
            assert load(name).config == TINY
    AMINet(TINY.replace(frm=False)).save_pretrained(tmp_path / "runs/one/best")
    assert [load("runs/one").config.frm for load in LOADS] == [False, False]


def test_a_folder_says_what_else_is_in_it(tmp_path: Path) -> None:
    for folder in ("two", "cut", "killed/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("two/a.safetensors", "two/b.safetensors", "cut/model.safetensors.index.json"):
        (tmp_path / name).touch()
    for step in (5, 10):
        (tmp_path / f"killed/checkpoints/step-{step:08d}.pt").touch()
    for load in LOADS:
        for folder, said in (
            ("two", r"name a file of it: a\.safetensors, b\.safetensors"),
            ("cut", "they are cut into several files"),
            ("killed", r"its newest checkpoint is killed/checkpoints/step-00000010\.pt"),
        ):
            with pytest.raises(FileNotFoundError, match=said):
                load(folder)


def test_an_owner_and_a_name_are_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AMINet(TINY).save_pretrained(tmp_path / "cache")
    asked = []

    def give(repository: str, name: str, **options: Any) -> str:
        asked.append((repository, name, options))
        if name == "config.json":
            raise EntryNotFoundError("none there")
        return str(tmp_path / "cache" / name)

    monkeypatch.setattr("aminet_fast.network.locate.hf_hub_download", give)
    (tmp_path / "cache/config.json").unlink()
    assert AMINet.from_pretrained("owner/name", token="t").config == TINY
    assert [a[:2] for a in asked] == [("owner/name", name) for name in ("model.safetensors", "config.json")]
    assert {a[2]["token"] for a in asked} == {"t"}
    (tmp_path / "owner").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no owner/name"):
        AMINet.from_pretrained("owner/name")
    assert AMINet.from_pretrained("owner/name", revision="main").config == TINY
    with pytest.raises(FileNotFoundError, match=r'Hub: AMINet\.from_pretrained\("other/name"\)'):
        load_model("other/name")


@pytest.mark.parametrize(
    "error", [OfflineModeIsEnabled("offline\nand more"), LocalEntryNotFoundError("not cached"), OSError("")]
)
def test_a_repository_that_does_not_come_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("aminet_fast.network.locate.hf_hub_download", fail)
    with pytest.raises(
        FileNotFoundError, match=r"there is no folder owner/name here, and the Hugging Face Hub"
    ) as told:
        AMINet.from_pretrained("owner/name")
    assert "\n" not in str(told.value)
