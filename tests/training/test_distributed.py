"""Several processes on one machine: the numbers of one, from as many as there are, and after one of them was killed."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast.training import train
from aminet_fast.training.accelerator import join
from aminet_fast.training.runs.folder import RunFolder
from aminet_fast.training.runs.start import mark, resumed
from tests.training.tiny import MODEL, checkpoint, column, tiny, unequal

WORKER = str(Path(__file__).with_name("worker.py"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
# As many threads as here: another number sums in another order.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
STATE = ("model", "optimizer", "ema", "rng", "step")
# BatchNorm, which normalises by the process's own batch, is in the feature refinement module alone.
UNNORMALISED = {**MODEL, "frm": False}

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
slow = pytest.mark.slow


def launch(tmp_path: Path, *launcher: str, out: str, end: tuple[str, ...] = (WORKER,), **changes: Any) -> str:
    """Train a tiny configuration through a launcher; returns what was printed."""
    config = tiny(tmp_path, out=str(tmp_path / out), **changes)
    file = tmp_path / f"{out}.yaml"
    file.write_text(config.to_yaml())
    script, *rest = end
    arguments = [sys.executable, *launcher, script, str(file), *rest]
    if script == "aminet_fast":
        arguments = [sys.executable, *launcher, "-m", script, "train", "--config", str(file), *rest]
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def numbers(run: Path, name: str = "loss") -> list[float]:
    return [float(value) for value in column(run, name)]


@pytest.mark.parametrize(
    ("processes", "batch_size", "accumulate", "precision", "margin"),
    [
        (2, 2, 1, "fp32", 1e-5),
        pytest.param(2, 1, 3, "fp32", 2e-4, marks=slow),
        pytest.param(3, 2, 1, "fp32", 2e-4, marks=slow),
        pytest.param(3, 1, 2, "fp32", 2e-4, marks=slow),
        pytest.param(2, 1, 2, "fp16", 2e-3, marks=slow),
    ],
)
def test_processes_train_as_one_with_the_same_faces_a_step(
    tmp_path: Path, processes: int, batch_size: int, accumulate: int, precision: str, margin: float
) -> None:
    """Up to the order of float32's sums. A division by 3 rounds, too, and Adam's first steps are g / |g|: where a
    gradient is all but zero they may go the other way.
    """
    recipe = {"model": UNNORMALISED, "steps": 5, "precision": precision, "grad_clip": 0.5, "ema": 0.9, "val_every": 5}
    few = {"batch_size": batch_size, "accumulate": accumulate}
    launch(tmp_path, *TORCHRUN, f"--nproc_per_node={processes}", out="several", **recipe, **few)
    train(tiny(tmp_path, out=str(tmp_path / "one"), **recipe, batch_size=processes * batch_size * accumulate))
    several, one = tmp_path / "several", tmp_path / "one"
    assert numbers(several) == pytest.approx(numbers(one), rel=margin)
    assert column(several, "images") == column(one, "images")
    assert numbers(one)[-1] < 0.9 * numbers(one)[0]  # so that the margin is less than what training does
    assert float(column(several, "val_psnr")[-1]) == pytest.approx(float(column(one, "val_psnr")[-1]), abs=0.02)
    a, b = checkpoint(several, 5), checkpoint(one, 5)
    assert a["world"] == processes
    ours, theirs = (torch.cat([w.flatten() for w in state["model"].values()]) for state in (a, b))
    farthest = 5 * 1e-3 * len(theirs) ** 0.5  # Adam: at most about the learning rate a step and weight
    assert torch.dist(ours, theirs).item() < 50 * margin * farthest
    if precision == "fp16":
        assert a["scaler"] == b["scaler"]


@slow
@pytest.mark.parametrize(("victim", "resume"), [("0", "never"), ("1", "auto")])
def test_a_killed_process_costs_no_more_than_the_steps_since_the_checkpoint(
    tmp_path: Path, victim: str, resume: str
) -> None:
    recipe = {"steps": 8, "checkpoint_every": 3, "val_every": 4, "ema": 0.9, "workers": 1, "resume": resume}
    elastic = (*TORCHRUN, "--max-restarts=3", "--nproc_per_node=2")
    launch(tmp_path, *elastic, out="whole", **recipe)
    printed = launch(tmp_path, *elastic, out="killed", end=(WORKER, victim, "5"), **recipe)
    assert "going on from step 3, after restart 1 by torchrun" in printed
    assert "complete: 8 steps" in printed
    a, b = (checkpoint(tmp_path / name, 8) for name in ("whole", "killed"))
    assert unequal({n: a[n] for n in STATE}, {n: b[n] for n in STATE}) == []
    for name in ("step", "loss", "val_psnr"):
        assert column(tmp_path / "whole", name) == column(tmp_path / "killed", name)
    assert not list((tmp_path / "killed").rglob(".tmp-*"))


@slow
def test_a_fork_goes_on_as_the_fork_after_a_restart(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=2))
    named = str(tmp_path / "run/checkpoints/step-00000002.pt")
    elastic = (*TORCHRUN, "--max-restarts=1", "--nproc_per_node=1")
    launch(tmp_path, *elastic, out="fork", end=(WORKER, "0", "4"), resume=named, steps=6, checkpoint_every=3)
    assert column(tmp_path / "fork", "step") == ["3", "4", "5", "6"]


@slow
def test_one_process_under_torchrun_is_a_plain_run(tmp_path: Path) -> None:
    launch(tmp_path, *TORCHRUN, "--nproc_per_node=1", out="torchrun", end=("aminet_fast",), ema=0.9)
    train(tiny(tmp_path, ema=0.9))
    a, b = (checkpoint(tmp_path / name, 4) for name in ("torchrun", "run"))
    assert unequal({n: a[n] for n in STATE}, {n: b[n] for n in STATE}) == []


@slow
def test_accelerate_launch_is_torchrun(tmp_path: Path) -> None:
    accelerate = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1")
    plain = ("--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0")
    printed = launch(tmp_path, *accelerate, *plain, out="accelerate", end=("aminet_fast",))
    assert "on 2 x cpu" in printed
    launch(tmp_path, *TORCHRUN, "--nproc_per_node=2", out="torchrun", end=("aminet_fast",))
    a, b = (checkpoint(tmp_path / name, 4) for name in ("accelerate", "torchrun"))
    assert unequal({n: a[n] for n in STATE}, {n: b[n] for n in STATE}) == []


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a process that torchrun has started for the second time."""
    for name, value in (
        ("TORCHELASTIC_RUN_ID", "none"),
        ("TORCHELASTIC_RESTART_COUNT", "1"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "29500"),
        ("GROUP_WORLD_SIZE", "1"),
    ):
        monkeypatch.setenv(name, value)
    return monkeypatch


def begun(tmp_path: Path, **changes: Any) -> tuple[Any, RunFolder]:
    config = tiny(tmp_path, **changes)
    folder = RunFolder(Path(str(config.out)))
    folder.checkpoints.mkdir(parents=True)
    folder.config.write_text("steps: 4")
    mark(folder)
    return config, folder


@pytest.mark.parametrize("resume", ["auto", "never"])
def test_a_restart_goes_on_with_the_run_of_its_launch(
    tmp_path: Path, restarted: pytest.MonkeyPatch, resume: str
) -> None:
    config, folder = begun(tmp_path, resume=resume)
    assert resumed(config, folder).resume == "auto"
    assert dataclasses.replace(resumed(config, folder), resume=resume) == config


@pytest.mark.parametrize("change", ["MASTER_PORT", "TORCHELASTIC_RUN_ID", "parent"])
def test_a_restart_leaves_the_run_of_another_launch_alone(
    tmp_path: Path, restarted: pytest.MonkeyPatch, change: str
) -> None:
    """Its first start was refused because of that run, and so is every other."""
    config, folder = begun(tmp_path, resume="never")
    if change == "parent":
        restarted.setattr(os, "getppid", lambda: 1)
    else:
        restarted.setenv(change, "1")
    assert resumed(config, folder).resume == "never"


def test_a_first_start_is_what_the_command_line_says(tmp_path: Path, restarted: pytest.MonkeyPatch) -> None:
    config, folder = begun(tmp_path, resume="never")
    restarted.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert resumed(config, folder).resume == "never"
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"):
        restarted.delenv(name)
    assert resumed(config, folder).resume == "never"
    mark(folder)
    assert not (folder.root / ".launcher").exists()


def test_a_named_checkpoint_is_taken_until_the_run_has_its_own(tmp_path: Path, restarted: pytest.MonkeyPatch) -> None:
    config, folder = begun(tmp_path, resume="elsewhere/step-00000002.pt")
    assert resumed(config, folder).resume == config.resume
    (folder.checkpoints / "step-00000002.pt").touch()
    assert resumed(config, folder).resume == "auto"


@pytest.mark.parametrize(("restart", "nodes", "keys"), [("0", "1", []), ("2", "1", ["start-2"]), ("2", "2", [])])
def test_a_restart_meets_under_keys_of_its_own(
    restarted: pytest.MonkeyPatch, restart: str, nodes: str, keys: list[str]
) -> None:
    """The first start is Accelerate's; of several nodes each would count for itself."""
    values = {"MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_USE_AGENT_STORE": "False"}
    for name, value in {**values, "TORCHELASTIC_RESTART_COUNT": restart, "GROUP_WORLD_SIZE": nodes}.items():
        restarted.setenv(name, value)
    used: list[str] = []
    prefixed = torch.distributed.PrefixStore
    restarted.setattr(torch.distributed, "PrefixStore", lambda key, store: used.append(key) or prefixed(key, store))
    join("gloo")
    try:
        assert torch.distributed.is_initialized() == bool(keys)
        assert used[:1] == keys
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
