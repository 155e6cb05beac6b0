"""Runs that go on from a named checkpoint with something changed, and where paths of a configuration lead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import load_model
from aminet_fast.training import TrainConfig, train
from aminet_fast.training.runs.folder import RunFolder
from aminet_fast.training.runs.start import first_network
from tests.adversarial.vgg19_weights import write_weights
from tests.training.gan_inputs import PARTS, gan
from tests.training.tiny import checkpoint, column, tiny


@pytest.fixture
def two_steps(tmp_path: Path) -> str:
    train(tiny(tmp_path, steps=2, log_every=5))
    return str(tmp_path / "run/checkpoints/step-00000002.pt")


def test_a_fork_of_a_complete_run_goes_on_from_it_later(tmp_path: Path, two_steps: str) -> None:
    """It says that there is nothing to do; with more steps it then has to do it from there, not from the start."""
    assert train(tiny(tmp_path, steps=2, resume=two_steps, out=str(tmp_path / "fork"))) == 0
    assert train(tiny(tmp_path, steps=3, out=str(tmp_path / "fork"))) == 0
    assert column(tmp_path / "fork", "step") == ["3"]


def test_a_fork_has_the_betas_that_it_was_given(tmp_path: Path, two_steps: str) -> None:
    for name, betas in (("fork", [0.5, 0.9]), ("same", [0.9, 0.99])):
        train(tiny(tmp_path, steps=3, resume=two_steps, betas=betas, out=str(tmp_path / name)))
        state = checkpoint(tmp_path / name, 3)
        assert list(state["optimizer"]["param_groups"][0]["betas"]) == state["config"]["betas"] == betas
    forked, same = (checkpoint(tmp_path / name, 3)["optimizer"]["state"] for name in ("fork", "same"))
    assert not torch.equal(forked[0]["exp_avg"], same[0]["exp_avg"])


def test_a_first_row_under_another_objective_is_of_that_alone(tmp_path: Path, two_steps: str) -> None:
    vgg = str(write_weights(tmp_path / "vgg.pth", last=5))
    fork: dict[str, Any] = {"gan": gan(vgg), "resume": two_steps, "log_every": 5, "steps": 5}
    train(tiny(tmp_path, out=str(tmp_path / "fork"), **fork))
    loss, *parts = (float(column(tmp_path / "fork", name)[-1]) for name in ("loss", *PARTS))
    assert loss == pytest.approx(parts[0] + 0.01 * parts[1] + 0.01 * parts[2], rel=1e-5)


def test_the_packages_weights_are_a_start_by_their_name() -> None:
    config = TrainConfig(preset="aminet-small", start_from="default")
    assert config.to_dict()["start_from"] == "default"
    first = first_network(config)
    assert first is not None
    weights = first.state_dict()
    for key, value in load_model("default").state_dict().items():
        assert torch.equal(weights[key], value), key


def test_a_home_is_one_and_the_same_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert train(tiny(tmp_path, steps=1, out="~/run")) == 0
    assert checkpoint(tmp_path / "run", 1)["config"]["out"] == str(tmp_path / "run")
    vgg = write_weights(tmp_path / "vgg.pth", last=5)
    assert train(tiny(tmp_path, steps=1, out="~/gan", gan=gan(f"~/{vgg.name}"))) == 0


def test_a_start_under_torchrun_that_ended_early_leaves_its_folder_free(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.prepare()
    folder.release()
    folder.launcher.write_text("1 localhost 1234 1")
    (folder.root / ".tmp-abc.yaml").write_text("pres")
    assert folder.is_blank()
    assert train(tiny(tmp_path, steps=1)) == 0
    assert not RunFolder(tmp_path / "run").is_blank()
