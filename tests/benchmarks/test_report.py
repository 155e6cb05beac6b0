"""benchmarks.report on results made by hand: pass, short, missing, slower at one size, best layout."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import budgets, report, rows
from benchmarks.cases import BACKWARD, BOTH, INFERENCE, SIZES, STEP
from benchmarks.contenders import LAYOUTS
from benchmarks.rows import Results, Row
from benchmarks.verdicts import MISSING, PASS, SHORT, Verdict, judge

MACHINE = {"device_type": "cpu", "device": "A CPU", "threads": 2, "torch": "2.14.1", "commit": "abc", "dirty": False}


def row(case: str, what: str, size: tuple[int, int], kind: str, layout: str, median: float, **more: Any) -> Row:
    channels, side = size
    about = {"case": case, "what": what, "dtype": "float32", "channels": channels, "side": side, "batch": 4}
    return about | {"kind": kind, "layout": layout, "median": median, "iqr": 0.1, "rounds": 5, "run": "r"} | more


def operator(case: str, what: str, eager: list[float], ours: list[float]) -> list[Row]:
    """NCHW takes twice as long."""
    made = []
    for size, theirs, mine in zip(SIZES, eager, ours, strict=True):
        made += [row(case, what, size, "eager", layout, theirs * (1 + (layout == "nchw"))) for layout in LAYOUTS]
        made.append(row(case, what, size, "ours", "channels_last", mine))
    return made


def verdict(made: list[Row], name: str, against: str = "eager", machine: dict[str, Any] = MACHINE) -> Verdict:
    (found,) = [v for v in judge(Results(machine, made)) if v.budget.name == name and v.bound.against == against]
    return found


def test_pass_weighs_sizes_by_their_uses() -> None:
    found = verdict(operator("skaf_gate", BOTH, [10, 6, 4, 2], [4, 3, 2, 1]), "skaf_gate fwd+bwd")
    assert found.verdict == PASS
    assert found.ratio == pytest.approx((3 * 20 + 2 * 2) / (3 * 9 + 2 * 1))  # three uses, two at the last size
    assert [part.ratio for part in found.parts] == [2.5, 2, 2, 2]
    attention = verdict(operator("channel_attention", BOTH, [9, 1, 1, 1], [4, 1, 1, 1]), "channel_attention fwd+bwd")
    assert attention.ratio == pytest.approx(12 / 7)
    assert attention.verdict == SHORT


def test_the_bound_itself_passes_and_just_below_is_short() -> None:
    name = "skaf_descriptor bwd"
    assert verdict(operator("skaf_descriptor", BACKWARD, [4, 4, 4, 4], [1, 1, 1, 1]), name).verdict == PASS
    assert verdict(operator("skaf_descriptor", BACKWARD, [3.99, 4, 4, 4], [1, 1, 1, 1]), name).verdict == SHORT


def test_slower_than_eager_at_one_size_is_short_whatever_the_sum() -> None:
    found = verdict(operator("skaf_gate", BOTH, [100, 6, 4, 2], [4, 3, 2, 2.1]), "skaf_gate fwd+bwd")
    assert found.ratio is not None
    assert found.ratio > 2
    assert (found.verdict, found.why) == (SHORT, "slower than eager at 192@16")


@pytest.mark.parametrize("kind", ["ours", "eager"])
def test_a_missing_size_is_not_measured(kind: str) -> None:
    made = operator("skaf_gate", BOTH, [10, 6, 4, 2], [1, 1, 1, 1])
    found = verdict([r for r in made if r["kind"] != kind or r["side"] != 64], "skaf_gate fwd+bwd")
    assert (found.verdict, found.ratio, found.why) == (MISSING, None, f"no row of {kind} at 48@64")


def test_eager_in_one_layout_only_is_not_measured() -> None:
    made = operator("skaf_gate", BOTH, [10, 6, 4, 2], [1, 1, 1, 1])
    found = verdict([r for r in made if r["layout"] != "nchw"], "skaf_gate fwd+bwd")
    assert (found.verdict, found.why) == (MISSING, "no row of eager")


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"batch": 1}, {"side": 8}, {"what": "forward"}])
def test_rows_of_other_shapes_do_not_count(change: dict[str, Any]) -> None:
    made = [r | change for r in operator("skaf_gate", BOTH, [10, 6, 4, 2], [1, 1, 1, 1])]
    assert verdict(made, "skaf_gate fwd+bwd").verdict == MISSING


def test_nothing_measured_passes_nothing() -> None:
    for device in ("cpu", "cuda"):
        found = judge(Results(MACHINE | {"device_type": device}, []))
        assert {v.verdict for v in found} == {MISSING}
        assert len(found) == sum(len(b.bounds) for b in budgets.budgets(device)) > 10


def test_network() -> None:
    size = SIZES[0]
    made = [
        row("model", what, size, kind, layout, seconds * (1.5 if layout == "nchw" else 1), batch=batch, **more)
        for what, batch, times in ((STEP, 4, (2.0, 1.9, 1.0)), (INFERENCE, 1, (1.6, 1.0, 0.9)))
        for kind, seconds in zip(("eager", "compiled", "ours"), times, strict=True)
        for layout in LAYOUTS
        for more in ({"peak_bytes": {"eager": 100, "ours": 59}.get(kind, 80)},)
    ]
    assert verdict(made, "AMINet training step").verdict == PASS
    assert verdict(made, "AMINet training step", "compiled").ratio == pytest.approx(1.9)
    inference = verdict(made, "AMINet inference, batch 1", "compiled")
    assert (inference.verdict, inference.ratio) == (SHORT, pytest.approx(1 / 0.9))
    made.append(row("model", INFERENCE, size, "ours+compiled", "nchw", 0.5, batch=1))  # counts at inference
    assert verdict(made, "AMINet inference, batch 1", "compiled").verdict == PASS
    memory = verdict(made, "peak memory of a training step", "memory")
    assert (memory.verdict, memory.ratio) == (PASS, pytest.approx(0.59))
    for r in made:
        r["peak_bytes"] = {"eager": 100, "ours": 61}.get(r["kind"])
    assert verdict(made, "peak memory of a training step", "memory").verdict == SHORT
    for r in made:
        r.pop("peak_bytes")
    assert verdict(made, "peak memory of a training step", "memory").verdict == MISSING


def test_part_of_copy_bandwidth() -> None:
    machine = MACHINE | {"device_type": "cuda", "device": "A GPU"}
    made = operator("skaf_gate", BOTH, [10, 6, 4, 2], [1, 1, 1, 1])
    made = [r | {"dtype": "bfloat16", "batch": 32, "bytes": 80.0} for r in made]
    name = "skaf_gate fwd+bwd"
    assert verdict(made, name, "copy", machine).why == "no row of copy"
    made.append({"case": "ceiling", "what": "copy", "dtype": "bfloat16", "bytes": 100.0, "median": 1.0})
    found = verdict(made, name, "copy", machine)
    assert (found.verdict, found.ratio, found.found) == (PASS, pytest.approx(0.8), "80%")
    made[-1]["bytes"] = 110.0
    assert verdict(made, name, "copy", machine).verdict == SHORT


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """As pytest-benchmark writes it."""
    entries = []
    for r in operator("skaf_gate", BOTH, [10, 6, 4, 2], [4, 3, 2, 1]):
        stats = {k: r.pop(k) for k in ("median", "iqr", "rounds")}
        entries.append({"name": "bench", "extra_info": r, "stats": stats})
    entries.append({"name": "another", "extra_info": {}, "stats": {}})
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"machine_info": {"aminet_fast": MACHINE}, "benchmarks": entries}))
    return path


def test_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(file), "--rows"]) == 0
    text = capsys.readouterr().out
    assert "A CPU, 2 CPU threads, torch 2.14.1, commit abc" in text
    assert "2.21x" in text
    assert "24@128 2.50x" in text
    assert "not measured" in text
    assert report.main([str(file), "--json", "--check"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {b["name"]: b["verdict"] for b in told["budgets"]}["skaf_gate fwd+bwd"] == PASS
    csv_file, slim = tmp_path / "rows.csv", tmp_path / "kept.json"
    assert report.main([str(file), "--json", "--csv", str(csv_file), "--save", str(slim)]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == told
    with csv_file.open(newline="") as read:
        assert len(list(csv.DictReader(read))) == 12
    assert report.main([str(slim), "--json"]) == 0  # what is kept says the same
    assert json.loads(capsys.readouterr().out) == told


def test_plot(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert report.main([str(file), "--plot", str(tmp_path / "a" / "ratios.png")]) == 0
    assert (tmp_path / "a" / "ratios.png").read_bytes().startswith(b"\x89PNG")


def test_save_names_device_torch_and_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(rows, "RESULTS", tmp_path)
    made = Results(MACHINE | {"device": "AMD EPYC (9B45)", "torch": "2.14.1+cpu"}, [])
    assert rows.saved_as(made) == tmp_path / "amd-epyc-9b45-2-threads" / "2.14.1-cpu-abc.json"


def test_a_group_of_two_runs_is_the_later_one() -> None:
    old = operator("skaf_gate", BOTH, [10, 6, 4, 2], [4, 3, 2, 1])
    new = [r | {"run": "s", "median": 1.0} for r in old if r["side"] == 64 and r["kind"] == "eager"]
    merged = rows.merge([Results(MACHINE, [*old, *new])])
    found = verdict(merged.rows, "skaf_gate fwd+bwd")
    assert found.why == "no row of ours at 48@64"  # ratios hold within a run


def test_results_of_different_machines_do_not_mix(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"machine": MACHINE | {"device": "B"}}) + "\n")
    assert report.main([str(file), str(other)]) == 2
    assert "different machines" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_no_results(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    assert report.main([str(bad)]) == 2
    assert "write it with --benchmark-json or --rows" in capsys.readouterr().err
    assert report.main([str(tmp_path / "none.json")]) == 2
