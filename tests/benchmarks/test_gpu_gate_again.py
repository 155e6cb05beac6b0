"""The gate's processes: what one that ends leaves to the next, and what is wrong with one contender alone."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aminet_fast import AMINet
from aminet_fast.ops import confirmation
from aminet_fast.ops import extension as _extension
from benchmarks.gpu_gate import __main__ as gate
from benchmarks.gpu_gate import again, build, child, network, parent, report
from benchmarks.gpu_gate.phases import Section
from benchmarks.gpu_gate.run import Row, Rows, Run
from benchmarks.steps import FAILED, OK, Deadline, Done, Step


def options(tmp_path: Path, *more: str) -> argparse.Namespace:
    found = gate.parser().parse_args(["--dry-run", "--out", str(tmp_path), "--work", str(tmp_path), *more])
    found.until = time.time() + 100
    return found


def conducted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plays: list[Callable[[Rows], Done]], names: tuple[str, ...]
) -> tuple[list[Row], list[list[str]]]:
    """The rows of a phase whose processes are `plays`, and the sections that each was asked for."""
    asked: list[list[str]] = []
    sections = tuple(Section(name, "", 10) for name in names)

    def played(step: Step, deadline: Deadline, log: Path, cwd: Path) -> Done:
        asked.append(step.command[step.command.index("--sections") + 1].split(","))
        with log.open("a") as file:
            file.write(f"\n==== {step.name}\nTimeout (0:01:00)!\n")
        return plays[len(asked) - 1](Rows(tmp_path / "results-A.jsonl"))

    monkeypatch.setattr(parent, "run_step", played)
    rows = parent.conduct(options(tmp_path), [], sections, tmp_path / "results-A.jsonl", time.time() + 100)
    return rows, asked


def test_the_rest_runs_when_a_process_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("", [], 1)

    def dies_in_the_second(rows: Rows) -> Done:
        rows.write("begin", name="one", at=time.time())
        rows.write("end", name="one", status="ok", note="", seconds=1.0)
        rows.write("begin", name="two", at=time.time())
        return Done(step, FAILED, 1.0, "exit status 1: killed")

    def device_breaks(rows: Rows) -> Done:
        rows.write("begin", name="three", at=time.time())
        rows.write("end", name="three", status="failed", note="illegal access", seconds=1.0)
        return Done(step, FAILED, 1.0, f"exit status {child.BROKEN}")

    def works(rows: Rows) -> Done:
        rows.write("begin", name="four", at=time.time())
        rows.write("end", name="four", status="ok", note="", seconds=1.0)
        return Done(step, OK)

    names = ("one", "two", "three", "four")
    rows, asked = conducted(tmp_path, monkeypatch, [dies_in_the_second, device_breaks, works], names)
    assert asked == [["one", "two", "three", "four"], ["three", "four"], ["four"]]
    ended = {row["name"]: row["status"] for row in rows if row["row"] == "end"}
    assert ended == {"one": "ok", "two": "timed out", "three": "failed", "four": "ok"}
    assert report.exit_status(rows, list(names)) == report.FAILED
    assert "timed out" in report.summary(rows)


def test_what_is_wrong_with_one_contender_is_a_row(tmp_path: Path) -> None:
    """Also an error of Triton's, of a class of its own. Ours is the network that people use."""

    class OutOfResources(Exception): ...

    rows = Rows(tmp_path / "rows.jsonl")
    given = Run(torch.device("cpu"), True, rows, tmp_path, tmp_path, None, "s", time.time() + 60)
    ours = network.Contender("auto")
    with network.noting(given, ours, "plain"):
        raise OutOfResources("shared memory")
    (row,) = rows.read()
    assert (row["contender"], row["problem"]) == ("ours-auto", "OutOfResources: shared memory")
    assert type(network.network(given, ours)) is AMINet


def test_the_extension_is_looked_for_again_when_it_was_built() -> None:
    _extension.load("_C_cuda")
    confirmation.source("skaf_gate", "triton")
    build.looked_for_again()
    assert _extension.load.cache_info().currsize == confirmation.source.cache_info().currsize == 0


def test_a_section_begins_again_without_what_broke_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice at most, and not where the same thing breaks it."""
    step, seen = Step("", [], 1), []

    def breaks_at(item: str, status: str = "broken") -> Callable[[Rows], Done]:
        def play(rows: Rows) -> Done:
            known = rows.read()
            seen.append((again.tried(known, "two"), again.culprits(known, "two")))
            rows.write("begin", name="two", at=time.time())
            rows.write("trying", section="two", item="eager")
            rows.write("trying", section="two", item=item)
            if status == "broken":
                rows.write("end", name="two", status=status, note="", seconds=1.0)
            return Done(step, FAILED, 1.0)

        return play

    def works(rows: Rows) -> Done:
        rows.write("begin", name="three", at=time.time())
        rows.write("end", name="three", status="ok", note="", seconds=1.0)
        return Done(step, OK)

    plays = [breaks_at("cuda"), breaks_at("triton", "timed out"), breaks_at("auto"), works]
    rows, asked = conducted(tmp_path, monkeypatch, plays, ("two", "three"))
    # What timed out waits for the others.
    assert asked == [["two", "three"], ["two", "three"], ["three", "two"], ["three"]]
    assert seen[1] == ({"eager", "cuda"}, {"cuda"})
    assert seen[2] == ({"eager", "cuda", "triton"}, {"cuda", "triton"})
    assert report.exit_status(rows, ["two"]) == report.FAILED


def test_the_same_culprit_twice_is_not_tried_again() -> None:
    rows: list[Row] = []
    for _ in range(2):
        assert again.begins_again(rows, "a") is bool(rows)
        rows += [{"row": "begin", "name": "a"}, {"row": "trying", "section": "a", "item": "x"}]
        rows += [{"row": "end", "name": "a", "status": "died"}]
    assert not again.begins_again(rows, "a")
    assert not again.begins_again([{"row": "end", "name": "a", "status": "ok"}], "a")


def test_items_that_were_tried(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "rows.jsonl")
    known = (
        frozenset({"cases: a bf16", "cases: b bf16", "steps: a", "steps: b"}),
        frozenset({"cases: b bf16", "steps: b"}),
    )
    given = Run(torch.device("cpu"), True, rows, tmp_path, tmp_path, None, "s", time.time() + 60, *known)
    assert list(given.each([("a", "bf16"), ("b", "bf16"), ("c", "bf16")], "cases", once=True)) == [("c", "bf16")]
    assert list(given.each(["a", "b", "c"], "steps")) == ["a", "c"]
    left_out = [row["what"] for row in rows.read() if row["row"] == "skipped"]
    assert left_out == ["cases: b bf16", "steps: b"]
    assert again.tried(rows.read(), "s") == {"cases: c bf16", "steps: a", "steps: c"}


def test_a_process_that_begins_nothing_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, asked = conducted(tmp_path, monkeypatch, [lambda rows: Done(Step("", [], 1), FAILED)], ("one", "two"))
    assert len(asked) == 1
    assert [row["status"] for row in rows if row["row"] == "end"] == ["skipped", "skipped"]
    assert next(row for row in rows if row["row"] == "log")["tail"].rstrip().endswith("Timeout (0:01:00)!")
