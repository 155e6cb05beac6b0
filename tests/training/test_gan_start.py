"""What adversarial training begins with: trained weights, or a plain checkpoint; and two processes of it."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import AMINet, load_model
from aminet_fast.training import train
from tests.adversarial.vgg19_weights import write_weights
from tests.training.gan_inputs import PARTS, gan
from tests.training.test_process import command, start
from tests.training.test_resume import scramble
from tests.training.tiny import MODEL, checkpoint, column, tiny, unequal


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_weights(tmp_path_factory.mktemp("vgg") / "vgg.pth", last=5))


def test_a_run_starts_from_trained_weights(tmp_path: Path, vgg: str) -> None:
    (tmp_path / "first").mkdir()
    train(tiny(tmp_path / "first", steps=2))
    weights = load_model(tmp_path / "first/run").state_dict()
    config = {"gan": gan(vgg), "start_from": str(tmp_path / "first/run"), "lr": 1e-12, "ema": 0.9, "init": "normal"}
    assert train(tiny(tmp_path, steps=1, **config)) == 0
    state = checkpoint(tmp_path / "run", 1)
    for key, value in weights.items():
        if key.split(".")[-1] in ("weight", "bias"):
            torch.testing.assert_close(state["model"][key], value, rtol=1e-5, atol=1e-9)
            torch.testing.assert_close(state["ema"][key], value, rtol=1e-5, atol=1e-9)
    shutil.rmtree(tmp_path / "first")  # from the first checkpoint on nothing is read from there
    scramble()
    assert train(tiny(tmp_path, steps=2, **config)) == 0


def test_weights_to_start_from_have_to_be_this_networks(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    train(tiny(tmp_path / "first", steps=1))
    wider = {**MODEL, "hourglass_width": 8}
    with pytest.raises(ValueError, match=r"another network than this run's \(hourglass_width: 4 -> 8\)"):
        train(tiny(tmp_path, model=wider, start_from=str(tmp_path / "first/run")))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        train(tiny(tmp_path, start_from=str(tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_from_before_all_this_is_gone_on_with(tmp_path: Path) -> None:
    train(tiny(tmp_path, out=str(tmp_path / "whole")))
    train(tiny(tmp_path, steps=2))
    path = tmp_path / "run/checkpoints/step-00000002.pt"
    old = torch.load(path, weights_only=True)
    for name in ("gan", "part_sums"):
        del old[name]
    for name in ("gan", "start_from"):
        del old["config"][name]
    torch.save(old, path)
    rows = [line.split(",")[:11] for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    (tmp_path / "run/metrics.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    assert train(tiny(tmp_path)) == 0
    names = ("model", "optimizer", "rng")
    a, b = (checkpoint(tmp_path / run, 4) for run in ("whole", "run"))
    assert unequal({n: a[n] for n in names}, {n: b[n] for n in names}) == []
    assert column(tmp_path / "whole", "loss") == column(tmp_path / "run", "loss")


def test_a_gan_goes_on_from_a_plain_checkpoint_on_purpose(tmp_path: Path, vgg: str) -> None:
    (tmp_path / "first").mkdir()
    train(tiny(tmp_path / "first", steps=2))
    named = str(tmp_path / "first/run/checkpoints/step-00000002.pt")
    assert train(tiny(tmp_path, steps=3, gan=gan(vgg), resume=named)) == 0
    state = checkpoint(tmp_path / "run", 3)
    assert state["gan"]["optimizer"]["state"][0]["step"] == 1
    assert state["optimizer"]["state"][0]["step"] == 3
    back = str(tmp_path / "run/checkpoints/step-00000003.pt")
    assert train(tiny(tmp_path, out=str(tmp_path / "back"), resume=back)) == 0
    assert checkpoint(tmp_path / "back", 4)["gan"] is None


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_are_one_with_batches_twice_as_large(tmp_path: Path, vgg: str) -> None:
    """Without BatchNorm, which each process does by itself; and both go on from a stop."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}")
    recipe = {"gan": gan(vgg), "model": {**MODEL, "frm": False}, "grad_clip": 0.5, "ema": 0.9}
    assert not [k for k in load(tmp_path, **recipe) if "running" in k]
    for steps in (2, 4):
        process = start(command(tmp_path, *launcher, **recipe, batch_size=1, steps=steps))
        said = process.communicate(timeout=600)[0]
        assert process.returncode == 0, said
    train(tiny(tmp_path, out=str(tmp_path / "one"), **recipe, batch_size=2))
    two, one = (checkpoint(tmp_path / name, 4) for name in ("run", "one"))
    assert two["world"] == 2
    for name in ("loss", *PARTS):
        values = [[float(v) for v in column(tmp_path / run, name)] for run in ("run", "one")]
        assert values[0] == pytest.approx(values[1], rel=1e-3), name
    torch.testing.assert_close(two["gan"]["discriminator"], one["gan"]["discriminator"], rtol=1e-2, atol=1e-3)
    assert two["gan"]["optimizer"]["state"][0]["step"] == 4


def load(tmp_path: Path, **recipe: Any) -> list[str]:
    return list(AMINet(tiny(tmp_path, **recipe).network()).state_dict())
