"""`aminet profile`: exact figures on a clock that only the run's parts move, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aminet_fast.commands.cli import main
from aminet_fast.data import FaceDataset
from aminet_fast.network.model import AMINet
from aminet_fast.profiling import profile as profile_module
from aminet_fast.profiling.profile import ProfileConfig, measure, profile
from aminet_fast.profiling.report import Figures, advice, bound, to_json, verdict
from aminet_fast.training.recorder import Recorder
from aminet_fast.training.validation import Validator
from tests.training.tiny import tiny


def config(tmp_path: Path, **changes: Any) -> ProfileConfig:
    mine = {name: changes.pop(name) for name in ("profile_steps", "skip", "json") if name in changes}
    run = tiny(tmp_path, **{"val_every": 100, "checkpoint_every": 50, **changes})
    return ProfileConfig(**{**vars(run), "profile_steps": 3, "skip": 1, **mine})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A face takes 1 s, the forward pass 3, Adam 5, validation 7, a checkpoint 11; and nothing else takes any time."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(profile_module, "time", SimpleNamespace(perf_counter=lambda: now.seconds))

    def slower(owner: Any, name: str, seconds: float) -> None:
        whole = getattr(owner, name)

        def method(self: Any, *arguments: Any, **options: Any) -> Any:
            now.seconds += seconds
            return whole(self, *arguments, **options)

        monkeypatch.setattr(owner, name, method)

    slower(FaceDataset, "__getitem__", 1)
    slower(AMINet, "forward", 3)
    slower(torch.optim.Adam, "step", 5)
    slower(Recorder, "save", 11)
    monkeypatch.setattr(Validator, "score", lambda self, model: setattr(now, "seconds", now.seconds + 7))
    return now


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_part_is_measured_where_it_belongs(tmp_path: Path, clock: SimpleNamespace, accumulate: int) -> None:
    figures = measure(config(tmp_path, accumulate=accumulate))
    k = accumulate
    assert figures.parts == {"loader": 2 * k, "copy": 0, "forward": 3 * k, "backward": 0, "optimizer": 5}
    assert figures.images == 2 * k
    assert figures.loader == 1
    assert figures.model == pytest.approx(2 * k / (3 * k + 5))
    assert figures.ratio == pytest.approx((3 * k + 5) / (2 * k))
    assert (figures.validation, figures.checkpoint, figures.issue, figures.workers) == (7, 11, 0, 0)
    assert figures.shares()["validation"] == 0.07
    assert figures.shares()["checkpoint"] == 0.22
    assert bound(figures) == "loader"


def test_a_captured_step_is_one_part(tmp_path: Path, clock: SimpleNamespace) -> None:
    figures = measure(config(tmp_path, cuda_graph=True, val_every=0))
    assert figures.parts == {"loader": 2, "copy": 0, "graph": 8}
    assert figures.validation is None
    assert "validation" not in figures.shares()


def test_a_validation_is_that_of_all_its_faces(
    tmp_path: Path, clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_module, "_FEW", 2)
    assert measure(config(tmp_path, profile_steps=1)).validation == 7 * 3 / 2


def test_it_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    assert profile(config(tmp_path, profile_steps=2, workers=1, json=str(tmp_path / "figures.json"))) == 0
    printed = capsys.readouterr().out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["verdict"] in printed
    assert f"feeds {figures['ratio']:.1f} x what the network takes" in printed
    assert figures["seconds_a_step"].keys() == {*figures["parts"], "validation", "checkpoint"}
    assert all(seconds >= 0 for seconds in figures["parts"].values())
    assert figures["options"]["batch_size"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert torch.are_deterministic_algorithms_enabled() == before


def test_the_command_takes_a_runs_config(
    tmp_path: Path, clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(tiny(tmp_path, val_every=0).to_yaml())
    assert main(["profile", "--config", str(file), "--profile_steps", "1", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["parts"]["forward"] == 3
    assert main(["profile", "--config", str(file), "--profile_steps", "0"]) == 2
    assert "profile_steps is 0" in capsys.readouterr().err


def figures(**changes: Any) -> Figures:
    """A step of 100 ms, of which 2 are waited for faces."""
    parts = {"loader": 0.002, "copy": 0.001, "forward": 0.03, "backward": 0.05, "optimizer": 0.017}
    values: dict[str, Any] = {
        "parts": {**parts, **changes.pop("parts", {})},
        "issue": 0.02,
        "images": 32,
        "loader": 1000.0,
        "workers": 2,
        "cores": 8,
        "validation": 5.0,
        "checkpoint": 1.0,
        "val_every": 1000,
        "checkpoint_every": 1000,
        "device": "cuda",
        "memory": 0.8,
        "options": {"batch_size": 32, "accumulate": 1, "precision": "bf16", "compile": False},
    }
    return Figures(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "what", "said", "advised"),
    [
        ({}, "backward", "the network bounds the step: backward takes 47% of the time", []),
        ({"memory": 0.2}, "backward", "backward", ["--batch_size 64"]),
        ({"device": "cpu", "issue": 0.0, "options": {"precision": "fp32"}}, "backward", "backward", ["bf16"]),
        # 32 faces in 98 ms are 326.5 a second; one loader process gives 100 of them
        ({"parts": {"loader": 0.1}, "loader": 200.0}, "loader", "49% of the time goes by in waiting", ["--workers 5"]),
        ({"parts": {"loader": 0.1}, "loader": 200.0, "cores": 4}, "loader", "waiting", ["--workers 4"]),
        ({"parts": {"loader": 0.1}, "loader": 200.0, "cores": 2}, "loader", "waiting", ["2 of its processes share 2"]),
        ({"parts": {"loader": 0.1}, "workers": 0}, "loader", "waiting", ["--workers 1"]),
        ({"loader": 400.0}, "backward", "backward", ["--workers 3"]),  # it keeps up, but only just
        ({"issue": 0.095}, "launches", "launches bound the step", ["--cuda_graph"]),
        ({"validation": 50.0}, "validation", "validation bounds the run: it takes 33%", ["--val_every"]),
        ({"validation": 50.0, "val_every": 0}, "backward", "backward", []),
        ({"checkpoint": 50.0}, "checkpoint", "checkpoints bounds the run", ["--checkpoint_every"]),
    ],
)
def test_the_verdict(changes: dict[str, Any], what: str, said: str, advised: list[str]) -> None:
    found = figures(**changes)
    assert bound(found) == what
    assert said in verdict(found)
    given = advice(found)
    assert len(given) == len(advised)
    assert all(wanted in text for wanted, text in zip(advised, given, strict=True))
    assert json.loads(json.dumps(to_json(found)))["bound"] == what


def test_two_networks_are_not_told_to_become_a_graph() -> None:
    options = {**figures().options, "gan": True}
    assert advice(figures(issue=0.095, options=options)) == []


def test_a_graph_is_not_told_to_become_one() -> None:
    parts = {"loader": 0.001, "copy": 0.001, "graph": 0.05}
    found = Figures(**{**vars(figures()), "parts": parts, "issue": 0.05})
    assert bound(found) == "graph"
    assert advice(found) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("graph", [False, True])
def test_on_a_gpu(tmp_path: Path, graph: bool) -> None:
    found = measure(config(tmp_path, device="cuda", cuda_graph=graph))
    assert found.issue > 0
    assert 0 < found.memory < 1
    assert set(found.parts) == {"loader", "copy", *(("graph",) if graph else ("forward", "backward", "optimizer"))}
