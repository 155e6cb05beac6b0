"""The GPU gate's machinery on a machine without a GPU: limits, failures that do not stop the rest, exit status."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_gate
from benchmarks.steps import FAILED, OK, SKIPPED, TIMED_OUT, Deadline, Done, Step, run_step

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, limit: float = 60, **more: object) -> Step:
    return Step("a step", [sys.executable, "-c", code], limit, **more)  # type: ignore[arg-type]


def test_a_step_that_works_and_one_that_fails(tmp_path: Path) -> None:
    log, deadline = tmp_path / "log", Deadline(100)
    done = run_step(python("import os; print('said', os.environ['A'])", env={"A": "b"}), deadline, log, tmp_path)
    assert (done.status, done.note) == (OK, "")
    done = run_step(python("print('why'); raise SystemExit(7)"), deadline, log, tmp_path)
    assert (done.status, done.note) == (FAILED, "exit status 7: why")
    assert "said b" in log.read_text()
    done = run_step(Step("none", ["/no/such/program"], 9), deadline, log, tmp_path)
    assert (done.status, done.note) == (FAILED, "/no/such/program does not start: No such file or directory")


def test_a_step_that_hangs_ends_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "alive"
    child = f"import time\nfor _ in range(600): open({str(file)!r}, 'a').write('x'); time.sleep(0.05)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    start = time.monotonic()
    done = run_step(python(code, limit=6), Deadline(100), tmp_path / "log", tmp_path)
    assert (done.status, done.note) == (TIMED_OUT, "stopped after 6 s")
    assert time.monotonic() - start < 40
    time.sleep(0.5)
    length = file.stat().st_size
    time.sleep(0.5)
    assert file.stat().st_size == length


def test_no_step_outlasts_the_whole(tmp_path: Path) -> None:
    done = run_step(python("import time; time.sleep(600)"), Deadline(6), tmp_path / "log", tmp_path)
    assert done.status == TIMED_OUT
    done = run_step(python("", keep_back=90.0), Deadline(92), tmp_path / "log", tmp_path)
    assert (done.status, done.note) == (SKIPPED, "no time left")
    assert run_step(python("", skip="a reason"), Deadline(92), tmp_path / "log", tmp_path).note == "a reason"


def test_seconds_stand_in_the_command(tmp_path: Path) -> None:
    step = Step("timed", [sys.executable, "-c", "import sys; print(sys.argv[1])", "{seconds}"], 30)
    assert run_step(step, Deadline(100), tmp_path / "log", tmp_path).status == OK
    assert (tmp_path / "log").read_text().splitlines()[-1] == "21"


def test_steps_fit_nine_minutes(tmp_path: Path) -> None:
    assert gpu_gate.LIMIT < 9 * 60
    steps = gpu_gate.plan(tmp_path, False, {})
    names = [step.name for step in steps]
    assert names.index("parity") < names.index("operators") < names.index("report") == len(names) - 1
    before = sum(step.limit for step in steps[: names.index("operators")])
    assert before + steps[names.index("operators")].limit < gpu_gate.LIMIT  # a hang there leaves the rest its time
    measuring = [step for step in steps if step.name.startswith(("operators", "network"))]
    assert all(step.keep_back >= gpu_gate.REPORT_SECONDS for step in measuring)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ({}, 0),
        ({"memcheck": SKIPPED}, 0),
        ({"parity": FAILED}, 1),
        ({"parity": TIMED_OUT}, 1),
        ({"parity": SKIPPED}, 1),
        ({"build": FAILED}, 4),
        ({"network": TIMED_OUT}, 4),
    ],
)
def test_exit_status(statuses: dict[str, str], expected: int, tmp_path: Path) -> None:
    done = [Done(step, statuses.get(step.name, OK)) for step in gpu_gate.plan(tmp_path, False, {})]
    assert gpu_gate.exit_status(done) == expected


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_gate.main(["--out", str(tmp_path / "gate")]) == 3
    assert "no usable CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "gate").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_dry_run_walks_every_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_gate", "--dry-run", "--out", str(tmp_path), "--limit", "850"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    about = json.loads((tmp_path / "gate.json").read_text())
    statuses = {step["name"]: step["status"] for step in about["steps"]}
    assert {n for n, s in statuses.items() if s == SKIPPED} == {
        "kernels",
        "backends",
        "graphs",
        "all cases",
        "racecheck",
        "network, compiled",
    }
    assert set(statuses.values()) == {OK, SKIPPED}
    assert about["machine"]["torch"] == torch.__version__
    kept = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert {"ceiling", "skaf_gate", "model"} <= {row["case"] for row in kept}
    assert {p.name for p in tmp_path.iterdir()} == {
        "gate.json", "log.txt", "results.csv", "results.json", "results.png", "rows.jsonl"
    }  # fmt: skip
    assert "Budgets" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("results in ")


def test_steps_can_be_chosen(tmp_path: Path) -> None:
    steps = gpu_gate.plan(tmp_path, True, {})
    assert [step.name for step in gpu_gate.chosen(steps, "parity,build")] == ["build", "parity", "report"]
    assert gpu_gate.chosen(steps, None) == steps
    with pytest.raises(SystemExit, match="no step is called profit"):
        gpu_gate.chosen(steps, "profit")
