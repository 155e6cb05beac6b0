"""The GPU gate on a machine without a GPU: dry runs of its phases, limits, deaths that do not stop the rest."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aminet_fast import AMINet, AMINetConfig, load_model
from aminet_fast.ops import backends, dispatch
from aminet_fast.training.runs.checkpoint import save_checkpoint
from benchmarks.gpu_gate import __main__ as gate
from benchmarks.gpu_gate import child, operators, parent, report, tools, training, variants, weights
from benchmarks.gpu_gate.network import served_by
from benchmarks.gpu_gate.phases import PHASES, WITHIN, Section, chosen
from benchmarks.gpu_gate.run import Row, Rows, Run, SkippedError, read
from benchmarks.steps import FAILED, OK, SKIPPED, TIMED_OUT, Deadline, Done, Step, run_step


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
    child_code = f"import time\nfor _ in range(600): open({str(file)!r}, 'a').write('x'); time.sleep(0.05)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child_code!r}]); time.sleep(600)"
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


def test_without_a_gpu_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gate.main(["--out", str(tmp_path / "gate")]) == 3
    assert "no usable CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "gate").exists()


def here(step: Step, deadline: Deadline, log: Path, cwd: Path) -> Done:
    """In the place of run_step: the sections run in this process, which has imported torch."""
    log.write_text("")
    return Done(step, OK if gate.main(step.command[3:]) == 0 else FAILED)


def walked(phase: str, out: Path, *more: str) -> list[Row]:
    """A dry run's rows; every section went well."""
    arguments = ["--dry-run", "--phase", phase, "--within", "560", "--out", str(out / "out")]
    arguments += ["--work", str(out / "work"), *more]
    assert gate.main(arguments) == 0, (out / "work" / "log.txt").read_text()[-3000:]
    rows = read(out / "out" / f"results-{phase}.jsonl")
    ended = {row["name"]: row["status"] for row in rows if row["row"] == "end"}
    assert ended == {section.name: "ok" for section in PHASES[phase]}
    assert rows[0]["machine"]["torch"] == torch.__version__
    return rows


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(parent, "run_step", here)
    yield
    signal.signal(signal.SIGTERM, before)


def skipped(rows: list[Row]) -> dict[str, str]:
    return {row["what"]: row["why"] for row in rows if row["row"] == "skipped"}


@pytest.mark.gpuless
@pytest.mark.usefixtures("in_process")
def test_dry_run_of_phase_a(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = walked("A", tmp_path)
    printed = capsys.readouterr().out
    assert skipped(rows) == {
        "compiling the extension and Triton's kernels": "not on cpu",
        "peak memory of a step": "not on cpu",
        "CUDA graphs of a step: graph_step ran it as it is": "not on cpu",
        "CUDA graphs of inference: graph ran it as it is": "not on cpu",
        "operators in CUDA graphs: timed as plain calls": "not on cpu",
    }
    names = {"eager-nchw", "eager-channels_last", "ours-auto", "ours-cuda"}
    steps = {(row["contender"], row["mode"]) for row in rows if row["row"] == "step"}
    assert {name for name, mode in steps if mode == "plain"} == names
    assert {("ours-auto", "graph"), ("ours-cuda", "graph")} < steps
    assert {row["contender"] for row in rows if row["row"] == "inference"} == names
    checked = {(row["contender"], row["dtype"]) for row in rows if row["row"] == "step parity" and row["right"]}
    assert checked == {(name, dtype) for name in names for dtype in ("bfloat16", "float32")}
    everything = set(backends.operators())
    for kind in ("parity", "operator"):
        assert {row["operator"] for row in rows if row["row"] == kind} == everything
    right = {(row["operator"], row["dtype"]) for row in rows if row["row"] == "parity" and row["right"]}
    assert right == {(name, dtype) for name in everything for dtype in ("bfloat16", "float32")}
    layers = {(row["layer"], row["what"]) for row in rows if row["row"] == "convolution"}
    assert len(layers) == 8 * 3
    profile = next(row for row in rows if row["row"] == "profile" and row["contender"] == "ours-auto")
    assert len(profile["launches"]) == profile["count"] == sum(count for _, count, _ in profile["table"])
    assert {"what": "copy"}.items() <= next(row for row in rows if row["row"] == "ceiling").items()
    assert "ours-auto" in printed
    assert printed.rstrip().splitlines()[-1].startswith("results in ")


@pytest.mark.gpuless
@pytest.mark.usefixtures("in_process")
def test_dry_run_of_phase_b(tmp_path: Path) -> None:
    rows = walked("B", tmp_path)
    assert skipped(rows) == {
        "compiling the extension and Triton's kernels": "not on cpu",
        "memcheck": "not on cpu: its target runs without it",
        "racecheck": "not on cpu",
        "configurations of autotuned kernels": "not on cpu",
        "ncu": "not on cpu",
    }
    compiled = next(row for row in rows if row["row"] == "step")
    assert compiled["contender"] == "eager-compiled"
    assert compiled["compiling_s"] > 0
    target = next(row for row in rows if row["row"] == "sanitizer")
    assert (target["status"], "ran layer_norm2d on cpu" in target["tail"]) == ("ok", True)
    curves = {row["precision"]: row["curve"] for row in rows if row["row"] == "curve"}
    assert [step for step, _ in curves["bf16"]] == [step for step, _ in curves["fp32"]] == [1, 2, 3]
    together = next(row for row in rows if row["row"] == "curves")
    assert together["points"] == 3
    assert 0 < together["largest_relative_difference"] < 0.05


@pytest.mark.gpuless
@pytest.mark.usefixtures("in_process")
def test_dry_run_of_phase_c_and_a_run_that_goes_on(tmp_path: Path) -> None:
    walked("C", tmp_path / "one")
    out = tmp_path / "one" / "out"
    assert sorted(p.name for p in out.iterdir()) == [
        "average-1.safetensors", "master-1.safetensors", "results-C.jsonl", "training.json"
    ]  # fmt: skip
    about = weights.recorded(out)
    assert (about["step"], [int(row["step"]) for row in about["curve"]]) == (3, [1, 2, 3])
    rows = walked("C", tmp_path / "two", "--resume", str(out))
    first = next(row for row in rows if row["row"] == "training")
    assert (first["what"], first["step"], first["batches"]) == ("resumed", 3, 2)
    later = weights.recorded(tmp_path / "two" / "out")
    assert (later["step"], [int(row["step"]) for row in later["curve"]]) == (6, [1, 2, 3, 4, 5, 6])
    assert later["curve"][:3] == about["curve"]
    weights.save(tmp_path / "two" / "out", tmp_path / "joined")
    assert load_model(tmp_path / "joined").config == AMINetConfig.from_dict(later["model"])


def test_sections_run_in_a_process_of_their_own(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    more = ["--out", str(tmp_path), "--work", str(tmp_path / "work"), "--only", "probe"]
    try:
        assert gate.main(["--dry-run", *more]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    rows = read(tmp_path / "results-A.jsonl")
    assert [row["row"] for row in rows] == ["about", "begin", "probe", "end"]
    assert set(rows[2]["operators"]) == set(rows[2]["sources"]["triton"]) == set(backends.operators())
    assert "unknown" not in rows[2]["sources"]["triton"].values()


def options(tmp_path: Path, *more: str) -> argparse.Namespace:
    found = gate.parser().parse_args(["--dry-run", "--out", str(tmp_path), "--work", str(tmp_path), *more])
    found.until = time.time() + 100
    return found


def a_run(tmp_path: Path, seconds: float = 100.0, *more: str) -> Run:
    rows = Rows(tmp_path / "results-A.jsonl")
    given = options(tmp_path, *more)
    return Run(torch.device("cpu"), True, rows, tmp_path, tmp_path, given, "a section", time.time() + seconds)


def test_phases_fit_what_a_call_has() -> None:
    assert WITHIN["A"] <= 330
    assert WITHIN["B"] <= 330
    names = [section.name for section in PHASES["A"]]
    assert names.index("step") < names.index("profile") < names.index("parity") < names.index("operators")
    for phase, sections in PHASES.items():
        assert len({section.name for section in sections}) == len(sections)
        assert all(callable(section.function()) for section in sections), phase


def test_sections_can_be_chosen() -> None:
    assert [s.name for s in chosen("A", "step, gradients")] == ["probe", "gradients", "step"]
    assert chosen("B", None) == PHASES["B"]
    with pytest.raises(SystemExit, match="phase A has no section profit; it has probe, build"):
        chosen("A", "profit")


def ending(outcome: Callable[[Run], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Row:
    monkeypatch.setattr(Section, "function", lambda self: outcome)
    run = a_run(tmp_path)
    assert child.one(Section("a section", "", 50), run.rows, run.options, 50)
    return next(row for row in run.rows.read() if row["row"] == "end")


def test_how_a_section_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def works(run: Run) -> None:
        run.write("number", value=1 / 3, worst=float("inf"))

    def cannot(run: Run) -> None:
        raise SkippedError("no such tool")

    def lacks(run: Run) -> None:
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401

    def fails(run: Run) -> None:
        raise ValueError("wrong")

    for number, (outcome, status, note) in enumerate(
        [
            (works, "ok", ""),
            (cannot, "skipped", "no such tool"),
            (lacks, "skipped", "no_such_package is not installed"),
            (fails, "failed", "ValueError: wrong"),
        ]
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        row = ending(outcome, folder, monkeypatch)
        assert (row["status"], row["note"]) == (status, note)
    assert {"value": 0.33333, "worst": "inf"}.items() <= read(tmp_path / "0" / "results-A.jsonl")[1].items()


def test_what_a_section_does_not_reach_is_noted(tmp_path: Path) -> None:
    run = a_run(tmp_path, seconds=3)
    done = []
    for item in run.each(range(5), "things"):
        done.append(item)
        if item == 1:
            run.until = time.time()
    assert done == [0, 1]
    assert skipped(run.rows.read()) == {"3 of 5 things": "no time left"}


PARITY = {"row": "parity", "operator": "op", "backend": "cuda", "dtype": "bfloat16", "case": "24@128", "error": 0.1}
ENDED = {"row": "end", "name": "parity", "status": "ok", "note": "", "seconds": 1.0}


@pytest.mark.parametrize(
    ("rows", "names", "expected"),
    [
        ([ENDED, PARITY | {"right": True}], ["parity"], 0),
        ([ENDED, PARITY | {"right": False}], ["parity"], 1),
        ([ENDED], ["parity"], 1),
        ([ENDED | {"status": "died"}, PARITY | {"right": True}], ["parity"], 4),
        ([ENDED | {"name": "counters", "status": "skipped"}], ["counters"], 0),
        ([ENDED | {"name": "memcheck"}, {"row": "sanitizer", "status": "errors"}], ["memcheck"], 1),
        ([ENDED | {"name": "step"}, {"row": "problem", "contender": "a", "what": "b", "problem": "c"}], ["step"], 4),
        ([ENDED | {"name": "step"}], ["step", "profile"], 4),
    ],
)
def test_exit_status(rows: list[Row], names: list[str], expected: int) -> None:
    assert report.exit_status(rows, names) == expected


def test_the_pack_is_used_where_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = {"new": (True, ""), "old": (False, "kernels/skaf_gate.py has changed")}
    manifest = SimpleNamespace(state=lambda root, folder: states[folder.name])
    unpack = SimpleNamespace(activate=lambda pack, build: {"TRITON_CACHE_DIR": "there", "PYTHONPATH": "site"})
    monkeypatch.setitem(sys.modules, "benchmarks.gpu_pack", SimpleNamespace(manifest=manifest, unpack=unpack))
    monkeypatch.setitem(sys.modules, "benchmarks.gpu_pack.manifest", manifest)
    monkeypatch.setitem(sys.modules, "benchmarks.gpu_pack.unpack", unpack)
    for name in states:
        (tmp_path / name).mkdir()

    def found(name: str) -> dict[str, Any]:
        return parent.packed(argparse.Namespace(dry_run=False, pack=tmp_path / name))

    env = {"TRITON_CACHE_DIR": "there", "PYTHONPATH": "site"}
    assert found("new") == {"usable": True, "state": "used", "env": env}
    assert found("old") == {"usable": False, "state": "kernels/skaf_gate.py has changed", "env": {}}
    assert found("none")["state"].startswith("none in ")
    monkeypatch.setattr(unpack, "activate", lambda *_: (_ for _ in ()).throw(OSError("damaged")))
    assert found("new")["state"] == "OSError: damaged"
    assert parent.joined({"PYTHONPATH": "tree", "A": "1"}, env)["PYTHONPATH"] == "site:tree"


def test_served_by_takes_one_family_of_kernels() -> None:
    x = torch.zeros(1, 24, 2, 2)
    before = dispatch.choose
    for name in ("cuda", "triton"):
        with served_by(name):
            assert dispatch.choose("rdfe_front", "rdfe_front_fwd", x, 24) == name
    with served_by("auto"):
        assert dispatch.choose is before
    assert dispatch.choose is before


def test_distance_is_relative_but_of_what_cancels() -> None:
    zero, one = torch.zeros(3, dtype=torch.double), torch.ones(3, dtype=torch.double)
    assert operators.distance(one * 1.5, one) == pytest.approx(0.5)
    assert operators.distance(one * 1e-4, zero) == 0.0
    assert operators.distance(one, zero) == operators.distance(None, one) == float("inf")
    assert operators.distance(None, None) == 0.0
    assert operators.distance(one * torch.nan, one) == float("inf")


NCU = """==PROF== Connected to process 1
trained
"ID","Kernel Name","Grid Size","Block Size","gpu__time_duration.sum","dram__bytes.sum","else"
"","","","","us","Mbyte",""
"0","front","(1, 2, 3)","(384, 1, 1)","61.5","1,025.5","x"
==PROF== Disconnected
"""


def test_counters_are_read_from_what_ncu_prints() -> None:
    (row,) = tools.counted(NCU)
    about = {"kernel": "front", "grid": "(1, 2, 3)", "block": "(384, 1, 1)"}
    assert row == about | {"gpu__time_duration.sum": 61.5, "dram__bytes.sum": 1025.5}
    assert tools.counted("==ERROR== no counters") == []


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("void aminet::(anonymous namespace)::front<__nv_bfloat16>(aminet::Call)", "front"),
        ("_filter_kernel", "_filter_kernel"),
        ("void at::native::elementwise_kernel<128, 4>(int)", "elementwise_kernel"),
    ],
)
def test_a_kernel_s_own_name(name: str, bare: str) -> None:
    assert tools.short(name) == bare


def test_every_configuration_of_a_tuner_is_noted() -> None:
    tuner = SimpleNamespace(
        cache={1: 2}, cache_results=True, nargs={"x": torch.zeros(1), "C": 24}, keys=["C", "x"],
        base_fn=SimpleNamespace(__name__="forward"), _bench=lambda *_, config, **__: [0.25, 0.2, 0.3],
    )  # fmt: skip
    found: list[dict[str, Any]] = []
    variants.listen(tuner, found)
    assert (tuner.cache, tuner.cache_results) == ({}, False)
    assert tuner._bench(config="BK: 32")[0] == 0.25
    assert found == [{"kernel": "forward", "key": {"C": 24}, "config": "BK: 32", "us": 250.0}]


def a_checkpoint(folder: Path, step: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(step)
    model = AMINet(AMINetConfig(**training.TINY_MODEL), "reference")
    state = {"step": step, "seconds": 1.5, "best": 20.0, "val_faces": "a", "faces": "b", "ema": None}
    state |= {"model": model.state_dict(), "model_config": model.config.to_dict()}
    save_checkpoint(folder / "checkpoints", state, 1)
    (folder / "metrics.csv").write_text("step,loss\n1,0.5\n2,0.25\n")
    return model.state_dict()


def test_weights_come_back_in_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "PART", 60_000)
    run, out = tmp_path / "run", tmp_path / "out"
    (run / "checkpoints").mkdir(parents=True)
    out.mkdir()
    state = a_checkpoint(run, 2)
    files = weights.export(run / "checkpoints" / "step-00000002.pt", run, out)
    assert files[-1] == "training.json"
    assert {"average-2.safetensors", "master-4.safetensors"} <= set(files)
    assert sorted(files) == sorted(p.name for p in out.iterdir())
    assert max((out / name).stat().st_size for name in files if "training" not in name) < 60_000 + 20_000
    master = weights.joined(out, "master")
    assert all(torch.equal(master[name], t) for name, t in state.items())
    average = weights.joined(out, "average")
    name = next(name for name, t in state.items() if t.is_floating_point())
    assert torch.equal(average[name], state[name].half())
    assert average["stem" if "stem" in average else name].dtype == torch.float16
    monkeypatch.setattr(weights, "PART", 10**9)
    a_checkpoint(run, 3)
    assert weights.export(run / "checkpoints" / "step-00000003.pt", run, out) == [
        "average-1.safetensors", "master-1.safetensors", "training.json"
    ]  # fmt: skip
    assert sorted(p.name for p in out.iterdir()) == ["average-1.safetensors", "master-1.safetensors", "training.json"]
    about = json.loads((out / "training.json").read_text())
    (out / "training.json").write_text(json.dumps(about | {"step": 9}))
    with pytest.raises(ValueError, match=r"is of step 3, training\.json of step 9"):
        weights.joined(out, "master")


def test_the_whole_network_comes_back_in_eight_files() -> None:
    with torch.device("meta"):
        state = AMINet(None, "reference").state_dict()
    halves = {name: weights.half(t) for name, t in state.items()}
    parts = [*weights.parts(state), *weights.parts(halves)]
    assert sum(len(part) for part in parts) == 2 * len(state)
    sizes = [sum(t.numel() * t.element_size() for t in part.values()) for part in parts]
    assert max(sizes) < 15.5 * 2**20
    assert len(parts) + len(["training.json", "results-C.jsonl"]) <= 8


def test_without_faces_training_is_skipped(tmp_path: Path) -> None:
    run = a_run(tmp_path, 100, "--faces", str(tmp_path / "none"))
    run.tiny = False
    with pytest.raises(SkippedError, match="there are no faces in"):
        training.faces(run)
