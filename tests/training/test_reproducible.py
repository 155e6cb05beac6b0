"""A run folder says what the run was, and its config.yaml repeats it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from aminet_fast.commands.cli import main
from aminet_fast.data import open_faces
from aminet_fast.training import train
from aminet_fast.training.runs import record
from aminet_fast.training.runs.logs import COLUMNS
from aminet_fast.training.runs.record import changed, last_environment, source_state
from tests.training.tiny import checkpoint, column, tiny, unequal

NUMBERS = [name for name in COLUMNS if name not in ("seconds", "images_per_s")]


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "runs.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 2])
def test_its_config_repeats_a_run_in_every_bit(
    tmp_path: Path, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that was stopped and resumed; with validation, panels, an average, and what crosses an epoch."""
    run, new = tmp_path / "run", tmp_path / "new"
    options = {"val_every": 2, "panel_every": 3, "ema": 0.9, "log_every": 3, "steps": 7, "data": {"limit": 5}}
    config = tiny(tmp_path, workers=workers, schedule="cosine", grad_clip=0.5, **options)
    assert train(config, callback=lambda step, loss: step == 4) == 0
    assert train(config) == 0
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(new)]) == 0
    assert "not as recorded" not in capsys.readouterr().out
    for name in NUMBERS:
        assert column(run, name) == column(new, name), name
    for name in ("best/model.safetensors", "last/model.safetensors", "panels/step-00000003.png"):
        assert (run / name).read_bytes() == (new / name).read_bytes(), name
    a, b = (checkpoint(folder, 7) for folder in (run, new))
    names = set(a) - {"config", "seconds"}
    assert unequal({n: a[n] for n in names}, {n: b[n] for n in names}) == []


def test_a_start_is_a_line_that_says_what_ran_where_on_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "aminet_fast", "train", "--lr", "1e-3"])
    config = tiny(tmp_path, val_every=2, seed=7)
    train(config, callback=lambda step, loss: step == 2)
    train(config)
    train(config)  # is complete: nothing is run
    first, second = lines(tmp_path / "run")
    assert (first["step"], second["step"]) == (0, 2)
    assert first["command"] == ["python", "-m", "aminet_fast", "train", "--lr", "1e-3"]
    assert first["seed"] == 7
    assert first["directory"] == str(Path.cwd())
    sets = {"train": open_faces(config.data, "train"), "val": open_faces(config.data, "val")}
    for name, faces in sets.items():
        assert first["faces"][name] == {
            "root": None, "count": len(faces), "skipped": 0, "fingerprint": faces.fingerprint,
        }  # fmt: skip
    ran_on = first["environment"]
    assert ran_on["torch"] == torch.__version__.split("+")[0]
    assert ran_on["threads"] == torch.get_num_threads()
    assert ran_on["started from"] == "scratch"
    assert ran_on == second["environment"]
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["recorded"] == ran_on


def other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    version = record._version
    monkeypatch.setattr(record, "_version", lambda name: "9.9" if name == "torch" else version(name))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)


def test_another_environment_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """When a run starts from a checkpoint, is repeated from its config.yaml alone, and is resumed."""
    run = tmp_path / "run"
    threads = torch.get_num_threads()
    train(tiny(tmp_path, steps=2))
    alone = tmp_path / "alone.yaml"
    alone.write_bytes((run / "config.yaml").read_bytes())
    named = str(run / "checkpoints/step-00000002.pt")
    assert "not as recorded" not in capsys.readouterr().out
    other_versions(monkeypatch)
    wanted = f"-> 9.9, threads {threads} -> 77; the numbers may not be the same in every digit"
    starts = (
        lambda: train(tiny(tmp_path, resume=named, out=str(tmp_path / "fork"))),
        lambda: main(["train", "--config", str(alone), "--out", str(tmp_path / "again")]),
        lambda: train(tiny(tmp_path, steps=3)),
    )
    for start in starts:
        assert start() == 0
        told = [line for line in capsys.readouterr().out.splitlines() if "not as recorded" in line]
        assert len(told) == 1
        assert told[0].startswith("warning: not as recorded: torch ")
        assert told[0].endswith(wanted)
    assert train(tiny(tmp_path, steps=4)) == 0  # the last start is what the next is compared with
    assert "not as recorded" not in capsys.readouterr().out


def test_a_run_that_is_complete_keeps_what_it_ran_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(tmp_path, steps=1)
    train(config)
    before = (tmp_path / "run/config.yaml").read_bytes()
    other_versions(monkeypatch)
    train(config)
    assert (tmp_path / "run/config.yaml").read_bytes() == before
    assert len(lines(tmp_path / "run")) == 1


def test_other_faces_and_another_beginning_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tiny(tmp_path, steps=1))
    named = str(tmp_path / "run/checkpoints/step-00000001.pt")
    train(tiny(tmp_path, steps=2, out=str(tmp_path / "fork"), resume=named))
    train(tiny(tmp_path, steps=3, out=str(tmp_path / "fork")))
    assert "not as recorded" not in capsys.readouterr().out
    again = ["train", "--config", str(tmp_path / "fork/config.yaml"), "--out", str(tmp_path / "new"), "--steps", "1"]
    main([*again, "--data.limit", "9"])
    told = next(line for line in capsys.readouterr().out.splitlines() if "not as recorded" in line)
    assert "training faces" in told
    assert f"started from {named} -> scratch" in told


def test_what_differs_is_named_and_digests_are_cut() -> None:
    assert changed({"a": 1, "b": "x", "c": None}, {"a": 1, "b": "y", "c": 2, "d": 3}) == "b x -> y, c None -> 2"
    assert changed({"f": "0" * 64}, {"f": "1" * 64}) == f"f {'0' * 12} -> {'1' * 12}"
    assert last_environment(Path("nowhere")) is None


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_source_is_a_commit_and_its_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("one = 1\n")
    read = source_state.__wrapped__  # a process asks once
    assert read(package) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "other").write_text("x")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-qm", "theirs")
    assert read(package) is None  # installed in somebody else's repository
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "ours")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert read(package) == commit
    states = set()
    for text in ("one = 2\n", "one = 3\n"):
        (package / "__init__.py").write_text(text)
        states.add(read(package))
    assert len(states) == 2
    assert all(state.startswith(f"{commit}+") for state in states)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read(package) is None


def test_a_run_goes_on_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Relative paths are those of the directory where the run was started."""
    for number in range(40):
        (tmp_path / "faces").mkdir(exist_ok=True)
        Image.linear_gradient("L").rotate(9 * number).convert("RGB").save(tmp_path / f"faces/{number:02}.png")
    monkeypatch.chdir(tmp_path)
    data = {"root": "faces", "cache": "cache", "drawn": 4096, "limit": None}
    assert train(tiny(tmp_path, data=data, out="run", steps=2, val_every=2)) == 0
    assert {p.name for p in tmp_path.iterdir()} >= {"run", "cache"}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["train", "--config", "../run/config.yaml", "--steps", "3"]) == 0
    assert "going on from step 2" in capsys.readouterr().out
    assert column(tmp_path / "run", "step") == ["1", "2", "3"]
    assert list((tmp_path / "elsewhere").iterdir()) == []
    values = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert (values["out"], values["data"]["root"]) == (str(tmp_path / "run"), str(tmp_path / "faces"))
    assert lines(tmp_path / "run")[0]["faces"]["train"]["root"] == str(tmp_path / "faces")
