"""The model's factors, and what a GPU confirmed, from invented results of the gate."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import ops
from aminet_fast.ops import backends, confirmation
from benchmarks.gpu_model import confirm, refit
from benchmarks.gpu_model.refit import Static

assert ops.__all__
GPU = {"device_type": "cuda", "device": "GPU 1", "torch": "2.11.0", "commit": "abc"}
FACTORS = {
    "about": "said",
    "fits": {
        "old": {"device": "GPU 0", "torch": "", "triton": "", "date": "", "measured": True, "source": ""},
        "assumed": {"device": "", "torch": "", "triton": "", "date": "", "measured": False, "source": ""},
    },
    "kernels": [
        {"kind": "triton", "kernel": "filter", "constants": {"SHARED": True}, "factor": 1.2, "fit": "old"},
        {"kind": "triton", "kernel": "filter", "factor": 1.7, "fit": "old"},
        {"kind": "triton", "kernel": "gram", "factor": 1.6, "fit": "old"},
    ],
    "others": [{"kind": "triton", "factor": 2.0, "fit": "assumed"}, {"kind": "cuda", "factor": 1.6, "fit": "assumed"}],
}


@pytest.fixture
def results(tmp_path: Path) -> Callable[..., Path]:
    """results(row, ...): a file of the gate with these rows behind those of every file."""

    def written(*rows: dict[str, Any], machine: dict[str, Any] = GPU) -> Path:
        path = tmp_path / "results-A.jsonl"
        about = [
            {"row": "about", "machine": machine},
            {"row": "probe", "versions": {"torch": "2.11.0", "triton": "3.6"}},
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*about, *rows]))
        return path

    return written


def profile(contender: str, *launches: tuple[str, float]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for name, _ in launches))
    return {
        "row": "profile",
        "contender": contender,
        "names": names,
        "launches": [[names.index(name), us] for name, us in launches],
    }


FRONT = "void aminet::(anonymous namespace)::front<__nv_bfloat16>(aminet::Call)"
AUTO = profile(
    "ours-auto", ("filter", 20.0), ("filter", 30.0), (FRONT, 90.0), ("filter", 15.0), ("void at::front<1>(int)", 7.0),
    ("filter", 9.0), ("parts", 12.0), ("unknown", 5.0),
)  # fmt: skip
MODELLED = [
    Static("triton", "filter", 10.0, {"SHARED": True}),
    Static("triton", "filter", 10.0, {"SHARED": False}),
    Static("cuda", "front<bf16>", 60.0),
    Static("triton", "filter", 10.0, {"SHARED": True}),
    Static("triton", "filter", 0.1),  # too short to say anything
    Static("triton", "parts", 3.0),
    Static("triton", "parts", 5.0),  # the profile has one of two
    Static("triton", "gram", 4.0),  # not in the profile
]


def test_factors_are_medians_of_measured_by_static(results: Callable[..., Path], tmp_path: Path) -> None:
    factors = tmp_path / "factors.json"
    factors.write_text(json.dumps(FACTORS))
    asked: list[bool] = []

    def known(prefer_compiled: bool) -> Sequence[Static]:
        asked.append(prefer_compiled)
        return MODELLED

    lines = refit.refit(results(AUTO), factors, known)
    assert asked == [False]
    found = json.loads(factors.read_text())
    rows = {(r["kernel"], json.dumps(r.get("constants"))): (r["factor"], r["fit"]) for r in found["kernels"]}
    assert rows == {
        ("filter", '{"SHARED": true}'): (1.75, "gpu-1-step"),  # of 2.0 and 1.5
        ("filter", "null"): (3.0, "gpu-1-step"),
        ("gram", "null"): (1.6, "old"),
        ("front<bf16>", "null"): (1.5, "gpu-1-step"),
        ("parts", "null"): (1.5, "gpu-1-step"),
    }
    assert next(row["kind"] for row in found["kernels"] if row["kernel"] == "front<bf16>") == "cuda"
    assert found["others"] == FACTORS["others"]
    fit = found["fits"]["gpu-1-step"]
    assert (fit["device"], fit["torch"], fit["triton"], fit["measured"]) == ("GPU 1", "2.11.0", "3.6", True)
    assert "commit abc" in fit["source"]
    assert lines == [
        "filter (triton): 1.2 -> 1.75, 2 launches",
        "filter (triton): 1.7 -> 3.0, 1 launches",
        "front<bf16> (cuda): 1.5, 1 launches; it had none of its own",
        "parts (triton): 1.5, 1 launches; it had none of its own",
    ]
    kept = factors.read_text()
    refit.refit(results(AUTO), factors, known)  # a second one takes its place, and nothing else changes
    assert factors.read_text() == kept.replace("gpu-1-step", "gpu-1-step-2")


def test_two_profiles_are_taken_together(results: Callable[..., Path], tmp_path: Path) -> None:
    factors = tmp_path / "factors.json"
    factors.write_text(json.dumps(FACTORS))
    rows = [profile("ours-auto", ("gram", 8.0)), profile("ours-cuda", ("gram", 16.0)), profile("eager", ("gram", 99.0))]
    refit.refit(
        results(*rows), factors, lambda prefer_compiled: [Static("triton", "gram", 8.0 if prefer_compiled else 4.0)]
    )
    found = json.loads(factors.read_text())
    assert found["kernels"][2]["factor"] == 2.0


@pytest.mark.parametrize("machine", [{"device_type": "cpu", "device": "a CPU"}, GPU])
def test_what_is_of_no_gpu_refits_nothing(
    results: Callable[..., Path], tmp_path: Path, machine: dict[str, Any]
) -> None:
    rows = [AUTO] if machine is not GPU else []
    with pytest.raises(ValueError, match="has no profile of a GPU"):
        refit.refit(results(*rows, machine=machine), tmp_path / "none", lambda _: MODELLED)


SIZES = ("24@128", "48@64")


def parity(case: str, right: bool = True, **more: Any) -> dict[str, Any]:
    about = {"row": "parity", "operator": "skaf_gate", "backend": "triton", "dtype": "bfloat16", "source": "ab12"}
    return {**about, "case": case, "right": right, **more}


OLD = {"operator": "rdfe_front", "backend": "cuda", "dtype": "float16", "source": "cd34", "device": "GPU 0"}


def confirmed(path: Path, tmp_path: Path, *entries: dict[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The lines, and the entries afterwards, of a table that had OLD and these."""
    table = tmp_path / "confirmed.json"
    before = [OLD | {"versions": {"torch": "2.11"}}, *entries]
    table.write_text(json.dumps({"about": "said", "entries": before}))
    lines = confirm.confirm(path, table, lambda operator, dtype: set(SIZES))
    found = json.loads(table.read_text())
    assert found["about"] == "said"
    assert found["entries"][0] == before[0]
    return lines, found["entries"][1:]


def test_what_was_right_at_every_size_is_confirmed(results: Callable[..., Path], tmp_path: Path) -> None:
    lines, entries = confirmed(results(*map(parity, SIZES)), tmp_path)
    assert lines == ["confirmed: skaf_gate, triton, bfloat16, 2 cases"]
    assert entries == [
        {
            "operator": "skaf_gate",
            "backend": "triton",
            "dtype": "bfloat16",
            "source": "ab12",
            "device": "GPU 1",
            "versions": {"torch": "2.11.0", "triton": "3.6"},
        }
    ]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([parity("24@128")], "not reached: 48@64"),
        ([parity("24@128"), parity("48@64", right=False)], "wrong at 48@64"),
        ([parity("24@128"), parity("48@64", served="triton")], "other kernels served 48@64"),
        ([parity("24@128"), parity("48@64", source="ef56")], "it is not known which source ran"),
        ([parity("24@128", source="unknown"), parity("48@64", source="unknown")], "it is not known which source ran"),
    ],
)
def test_what_confirms_nothing(
    rows: list[dict[str, Any]], why: str, results: Callable[..., Path], tmp_path: Path
) -> None:
    lines, entries = confirmed(results(*rows), tmp_path)
    assert (lines, entries) == ([f"not confirmed: skaf_gate, triton, bfloat16: {why}"], [])


def test_what_was_wrong_loses_its_entry(results: Callable[..., Path], tmp_path: Path) -> None:
    entry = {k: v for k, v in parity("").items() if k in ("operator", "backend", "dtype", "source")}
    entry |= {"device": "GPU 0", "versions": {"torch": "2.11"}}
    path = results(parity("24@128"), parity("48@64", right=False))
    lines, entries = confirmed(path, tmp_path, entry)
    assert (lines[0].endswith("; its entry was removed"), entries) == (True, [])
    older = entry | {"source": "of other kernels"}
    assert confirmed(path, tmp_path, older)[1] == [older]


def test_a_cpu_confirms_nothing(results: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not of a GPU"):
        confirm.confirm(results(parity("24@128"), machine={"device_type": "cpu"}), tmp_path / "none")


def test_the_network_s_cases_are_those_that_are_wanted() -> None:
    for operator in backends.operators():
        for dtype in ("bfloat16", "float32"):
            assert len(confirm.network_cases(operator, dtype)) >= 4, operator


def test_what_is_written_is_read(results: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = confirmation.source("skaf_gate", "triton")
    table = tmp_path / "confirmed.json"
    table.write_text(json.dumps({"entries": []}))
    confirm.confirm(results(*(parity(case, source=source) for case in SIZES)), table, lambda *_: set(SIZES))
    monkeypatch.setattr(confirmation, "TABLE", table)
    confirmation.forget()
    try:
        assert not backends.explain("skaf_gate", "cuda", "auto", torch.bfloat16).unconfirmed
        assert backends.explain("skaf_gate", "cuda", "auto", torch.float32).unconfirmed
    finally:
        monkeypatch.undo()
        confirmation.forget()
