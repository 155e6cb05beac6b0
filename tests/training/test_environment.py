"""Variables that libraries read behind a run's back: Accelerate's have no effect or are refused, others recorded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast.training import environment, train
from aminet_fast.training.accelerator import accelerated
from tests.training.tiny import STATE, checkpoint, column, tiny, unequal

STALE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_DYNAMO_BACKEND": "no such backend",
    "ACCELERATE_FP8_BACKEND": "TE",
    "ACCELERATE_USE_CPU": "neither yes nor no",
    "ACCELERATE_WHAT_NO_VERSION_KNOWS_YET": "1",
}


def test_the_options_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tiny(tmp_path, steps=2, accumulate=2, out=str(tmp_path / "clean")))
    for name, value in STALE.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    train(tiny(tmp_path, steps=2, accumulate=2))
    assert dict(os.environ) == before
    assert column(tmp_path / "run", "loss") == column(tmp_path / "clean", "loss")
    a, b = ({n: checkpoint(tmp_path / run, 2)[n] for n in STATE} for run in ("run", "clean"))
    assert unequal(a, b) == []


@pytest.mark.parametrize("name", STALE)
def test_each_alone_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, STALE[name])
    with accelerated("cpu", "fp16", 2) as accelerator:
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("fp16", 2)
        assert accelerator.device.type == "cpu"
        assert accelerator.state.dynamo_plugin.backend == "NO"
        assert accelerator.fp8_backend == "NO"


@pytest.mark.parametrize("name", environment.ENGINES)
def test_another_engine_is_refused_before_anything_is_touched(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "true")
    with pytest.raises(ValueError, match=rf"^{name}=true asks for .*; unset it \(unset {name}\)") as refusal:
        train(tiny(tmp_path))
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv(name, "false")
    with accelerated("cpu", "fp32", 1) as accelerator:
        assert accelerator.num_processes == 1


def test_sagemaker_without_its_data_parallelism_is_a_plain_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_SAGEMAKER", "true")
    monkeypatch.setenv("ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE", "NO")
    with accelerated("cpu", "fp32", 1) as accelerator:
        assert accelerator.device.type == "cpu"


def test_they_are_held_away_until_the_run_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `prepare` makes reads them again. What a launcher says without changing numbers stays."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("ACCELERATE_DEBUG_MODE", "true")
    with accelerated("cpu", "fp32", 1) as accelerator:
        assert "ACCELERATE_USE_CPU" not in os.environ
        assert accelerator.state.debug
    assert os.environ["ACCELERATE_USE_CPU"] == "true"


@pytest.mark.parametrize(
    ("device", "variable", "cpu"),
    [("auto", "true", True), ("auto", "0", False), ("cuda", "true", False), ("cpu", "false", True)],
)
def test_accelerate_launch_on_the_cpu_decides_for_auto_alone(
    device: str, variable: str, cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bool] = []

    class Stop(Exception):
        pass

    def take(cpu: bool, precision: str, accumulate: int) -> Any:
        made.append(cpu)
        raise Stop

    monkeypatch.setenv("ACCELERATE_USE_CPU", variable)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("aminet_fast.training.accelerator._accelerator", take)
    with pytest.raises(Stop), accelerated(device, "fp32", 1):
        pass
    assert made == [cpu]


def test_what_changes_numbers_is_recorded_and_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in environment.NUMERIC:
        monkeypatch.delenv(name, raising=False)
    train(tiny(tmp_path, steps=1))
    assert "not as recorded" not in capsys.readouterr().out
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    train(tiny(tmp_path, steps=2))
    told = "not as recorded: variables None -> MKL_CBWR=COMPATIBLE NVIDIA_TF32_OVERRIDE=1;"
    assert told in capsys.readouterr().out
    starts = [json.loads(line) for line in (tmp_path / "run/runs.jsonl").read_text().splitlines()]
    assert [start["environment"]["variables"] for start in starts] == [
        None,
        "MKL_CBWR=COMPATIBLE NVIDIA_TF32_OVERRIDE=1",
    ]
