"""What the benchmarks rest on: turns, parity before time, no answer of another group, honest counts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import budgets, conftest, memory_process, parity, profiles, timing
from benchmarks.bench_skaf_gate import CASES
from benchmarks.cases import BACKWARD, BOTH, FORWARD, SIZES, Case, Group, all_cases
from benchmarks.contenders import Contender, NotThereError, OperatorGroup, Ready

GROUP = Group("skaf_gate", BOTH, "float32", 4, 6, 2)
EAGER, COMPILED, OURS = (Contender(kind, "nchw") for kind in ("eager", "compiled", "ours"))


def test_contenders_take_turns_in_an_order_that_rotates() -> None:
    called: list[str] = []

    def contender(name: str) -> Callable[[], float]:
        return lambda: called.append(name) or float(len(called))  # type: ignore[func-returns-value]

    samples = timing.interleave({name: contender(name) for name in "abc"}, timing.Plan(3, 60))
    assert "".join(called) == "abc" + "abc" + "bca" + "cab"
    assert samples == {"a": [4, 9, 11], "b": [5, 7, 12], "c": [6, 8, 10]}  # without the warm-up


def test_time_ends_the_rounds_but_not_before_the_least() -> None:
    assert len(timing.interleave({"a": lambda: 1.0}, timing.Plan(100, 0, least=4))["a"]) == 4
    assert timing.interleave({}, timing.Plan(5, 1)) == {}


def test_quartiles() -> None:
    assert timing.iqr([5, 1, 2, 4, 3]) == 2
    assert timing.iqr([7]) == 0


def test_error_is_relative_and_nan_is_infinite() -> None:
    wanted = torch.tensor([3.0, 4.0])
    assert parity.error(torch.tensor([3.0, 4.5]), wanted) == pytest.approx(0.1)
    assert parity.error(torch.tensor([3.0, torch.nan]), wanted) == float("inf")
    assert parity.error(wanted[None], wanted) == float("inf")
    assert parity.worst([wanted], [wanted, wanted]) == float("inf")
    assert parity.together([wanted, wanted + 1], [wanted, wanted]) == pytest.approx((2 / 50) ** 0.5)
    with pytest.raises(parity.WrongNumbersError):
        parity.require("nan", float("nan"), 1)


@pytest.mark.parametrize("what", [FORWARD, BOTH])
def test_wrong_numbers_are_not_timed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (case,) = CASES
    reference = case.reference()
    assert reference is not None
    work = OperatorGroup(case, replace(GROUP, what=what), torch.device("cpu"))
    assert work.prepare(EAGER).error < 1e-6

    def nearly(*arguments: Any) -> Tensor:
        return reference(*arguments) * 1.001

    monkeypatch.setattr(Case, "reference", lambda self: nearly)
    with pytest.raises(parity.WrongNumbersError, match=r"skaf_gate .* eager-nchw is 1.0e-03 from"):
        work.prepare(EAGER)


def suite(monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Contender], Ready]) -> conftest.Suite:
    """One whose groups are made ready by `prepare`."""
    monkeypatch.setattr(conftest, "OperatorGroup", lambda *_: SimpleNamespace(prepare=prepare))
    session = SimpleNamespace(items=[], config=SimpleNamespace(getoption=lambda _: None))
    made = conftest.Suite(session, profiles.QUICK, torch.device("cpu"))  # type: ignore[arg-type]
    made.wanted = {replace(GROUP, side=side): [EAGER, COMPILED, OURS] for side in (6, 7)}
    return made


def trial(contender: Contender, side: int = 6) -> conftest.Trial:
    return conftest.Trial(replace(GROUP, side=side), contender, CASES[0])


def test_one_contender_fails_and_the_others_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(contender: Contender) -> Ready:
        if contender == OURS:
            raise parity.WrongNumbersError("wrong")
        if contender == COMPILED:
            raise NotThereError("no compiler")
        return Ready(lambda: 0.25, 1e-7)

    made = suite(monkeypatch, prepare)
    assert set(made.answer(trial(EAGER))[0]) == {0.25}
    with pytest.raises(parity.WrongNumbersError):
        made.answer(trial(OURS))
    with pytest.raises(NotThereError):
        made.answer(trial(COMPILED))


def test_a_group_that_fails_has_no_answer_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {"n": 0}

    def sample() -> float:
        calls["n"] += 1
        if calls["n"] > 60:
            raise RuntimeError("broke while it was timed")
        return 0.25

    made = suite(monkeypatch, lambda contender: Ready(sample, 1e-7))
    assert made.answer(trial(OURS))[0]
    for contender in (EAGER, OURS):
        with pytest.raises(RuntimeError, match="broke while"):
            made.answer(trial(contender, side=7))


def test_nothing_begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    made = suite(monkeypatch, lambda contender: Ready(lambda: 0.25, 1e-7))
    made.within = 0.0
    with pytest.raises(NotThereError, match="not begun within"):
        made.answer(trial(EAGER))


def test_replayed_clock_tells_the_samples() -> None:
    timing.replay([0.5, 0.25])
    told = [timing.replayed_clock() for _ in range(4)]
    assert [told[1] - told[0], told[3] - told[2]] == [0.5, 0.25]


def test_every_case_counts_what_it_times_and_every_budget_has_its_case() -> None:
    cases = {case.name: case for case in all_cases()}
    for case in cases.values():
        assert set(case.whats) <= set(case.images), case.name
        assert set(case.whats) <= {FORWARD, BACKWARD, BOTH}
    for device in ("cpu", "cuda"):
        for budget in budgets.budgets(device):
            assert budget.of_model or all(budget.what in cases[name].whats for name in budget.cases), budget.name
    gate = cases["skaf_gate"]
    assert gate.bytes(GROUP) == 9 * 2 * 4 * 36 * 4
    assert gate.flops(replace(GROUP, what=FORWARD)) == 2 * (2 * 2 * 49 + 2 * 4) * 2 * 36


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_quick_measures_what_budgets_ask(device: str) -> None:
    (case,) = (c for c in all_cases() if c.name == "skaf_descriptor")
    trials = list(profiles.operator_trials(profiles.QUICK, device, case))
    asked = [b for b in budgets.budgets(device) if case.name in b.cases]
    for budget in asked:
        for channels, side in SIZES:
            group = Group(case.name, budget.what, budget.dtype, channels, side, budget.batch)
            kinds = [str(c) for g, c in trials if g == group]
            assert kinds == ["eager-nchw", "eager-channels_last", "ours-channels_last"]
    model = {(g.what, c.kind) for g, c in profiles.model_trials(profiles.QUICK, device)}
    assert {("training step", "eager"), ("training step", "ours"), ("inference", "ours")} <= model
    assert any(c.kind == "compiled" for _, c in profiles.model_trials(profiles.QUICK, device)) == (device == "cuda")


def test_saved_bytes_count_each_storage_once_and_no_weights() -> None:
    model = torch.nn.Linear(8, 4, bias=False)
    x = torch.randn(16, 8)

    def forward() -> Tensor:
        y = model(x).exp()  # keeps x, and its own result
        return y * y  # keeps the same result again

    assert memory_process.saved_bytes(model, forward) == 16 * 8 * 4 + 16 * 4 * 4


def test_saved_bytes_keeps_nothing_alive() -> None:
    freed: list[int] = []

    def forward() -> Tensor:
        x = torch.randn(4, requires_grad=True)
        weakref.finalize(x, freed.append, 1)
        return x.exp()  # its backward keeps its own result

    memory_process.saved_bytes(torch.nn.Identity(), forward)
    gc.collect()
    assert freed == [1]
