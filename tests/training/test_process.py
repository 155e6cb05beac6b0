"""Runs as processes of their own: killed, told to stop, and several at once."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import load_model
from aminet_fast.data import open_faces
from aminet_fast.evaluate import evaluate_model
from aminet_fast.training import train
from aminet_fast.training.runs.checkpoint import list_checkpoints
from tests.training.tiny import checkpoint, column, tiny, unequal

# As many threads as here: another number sums in another order, and bits are compared.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}


def command(tmp_path: Path, *launcher: str, **changes: Any) -> list[str]:
    """The command line of a tiny run, through a YAML file."""
    file = tmp_path / f"{changes.get('out', 'run')}.yaml".replace("/", "_")
    config = tiny(tmp_path, **{**changes, "out": str(tmp_path / changes.get("out", "run"))})
    path = tmp_path / file.name
    path.write_text(config.to_yaml())
    return [sys.executable, *launcher, "-m", "aminet_fast", "train", "--config", str(path)]


def wait_for(condition: Any, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if condition():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    pytest.fail("the run did not get there in two minutes")


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_kill_9_loses_at_most_the_steps_since_the_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(command(tmp_path, steps=10_000, checkpoint_every=2, workers=1, ema=0.9))
    wait_for(lambda: len(list_checkpoints(run / "checkpoints")) >= 2, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    newest = int(list_checkpoints(run / "checkpoints")[-1].stem[-8:])
    assert newest % 2 == 0
    assert int(column(run, "step")[-1]) <= newest + 3  # the one being written, and its step

    whole = {"steps": newest + 2, "ema": 0.9, "workers": 1}
    train(tiny(tmp_path, **whole))
    train(tiny(tmp_path, out=str(tmp_path / "whole"), **whole))
    a, b = (checkpoint(tmp_path / name, newest + 2) for name in ("run", "whole"))
    names = ("model", "optimizer", "ema", "rng")
    assert unequal({n: a[n] for n in names}, {n: b[n] for n in names}) == []
    assert column(run, "loss") == column(tmp_path / "whole", "loss")


def test_sigterm_to_the_whole_group_still_saves(tmp_path: Path) -> None:
    """As a batch system or a container sends it: the loader's processes get it too."""
    run = tmp_path / "run"
    process = start(command(tmp_path, steps=10_000, workers=2))
    wait_for(lambda: (run / "metrics.csv").is_file() and len(column(run, "step")) > 2, process)
    with pytest.raises(OSError, match=r"another process is training in .*--out"):
        train(tiny(tmp_path, steps=10_000))
    os.killpg(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "stopped by SIGTERM after step" in output
    last = int(list_checkpoints(run / "checkpoints")[-1].stem[-8:])
    assert last == int(column(run, "step")[-1])


def test_a_second_signal_quits_at_once(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\nfrom aminet_fast.training.signals import StopSignals\n"
        "with StopSignals() as s:\n    os.kill(os.getpid(), signal.SIGINT); assert s.requested == 'SIGINT'\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, timeout=50)
    assert done.returncode == -signal.SIGINT


def test_divergence_is_one_line_and_a_status(tmp_path: Path) -> None:
    arguments = [*command(tmp_path, checkpoint_every=1), "--lr", "1e38", "--betas", "[0, 0]"]
    done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("aminet: error: the ")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs gloo")
def test_two_processes_under_torchrun(tmp_path: Path) -> None:
    """They train on other faces each, agree on every number, and resume bitwise."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")
    recipe: dict[str, Any] = {"steps": 6, "accumulate": 2, "val_every": 3, "ema": 0.9}

    def launch(out: str, *options: str) -> None:
        arguments = [*command(tmp_path, *launcher, out=out, **recipe), *options]
        done = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout + done.stderr

    launch("whole")
    launch("parts", "--stop_after_minutes", "1e-9", "--checkpoint_every", "1")
    assert list_checkpoints(tmp_path / "parts/checkpoints")[-1].name == "step-00000001.pt"
    launch("parts")
    a, b = (checkpoint(tmp_path / name, 6) for name in ("whole", "parts"))
    names = ("model", "optimizer", "ema", "rng", "world")
    assert unequal({n: a[n] for n in names}, {n: b[n] for n in names}) == []
    assert a["world"] == len(a["rng"]) == 2
    assert column(tmp_path / "whole", "loss") == column(tmp_path / "parts", "loss")
    assert column(tmp_path / "whole", "images")[-1] == str(6 * 2 * 2 * 2)
    saved = evaluate_model(load_model(tmp_path / "whole/last"), open_faces(tiny(tmp_path).data, "val"), batch_size=2)
    assert float(column(tmp_path / "whole", "val_psnr")[-1]) == pytest.approx(saved.ours.mean_psnr, abs=2e-4)
    alone = tiny(tmp_path, out=str(tmp_path / "alone"), **{**recipe, "accumulate": 4})
    train(alone)
    ours, theirs = (float(column(out, "val_bicubic_psnr")[-1]) for out in (tmp_path / "alone", tmp_path / "whole"))
    assert ours == pytest.approx(theirs, abs=1e-9)
