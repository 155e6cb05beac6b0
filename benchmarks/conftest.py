"""The suite's options, its parameters, and the measuring that every benchmark file shares."""

from __future__ import annotations

import json
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from . import model, profiles, timing
from .cases import Case, Group
from .contenders import Contender, NotThereError, OperatorGroup, Ready
from .profiles import FULL, QUICK, Profile, model_trials, operator_trials
from .rows import describe_machine

RUN = uuid.uuid4().hex[:12]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aminet_fast benchmarks")
    group.addoption("--quick", action="store_true", help="only what the budgets ask for, in few rounds")
    group.addoption("--tiny", action="store_true", help="shapes of a few pixels, to try the suite itself")
    group.addoption("--within", type=float, metavar="SECONDS", help="skip what has not begun by then")
    group.addoption("--rows", metavar="FILE", help="append each row to this JSONL file as soon as it is there")
    group.addoption("--threads", type=int, help="torch's CPU threads")


def pytest_configure(config: pytest.Config) -> None:
    if threads := config.getoption("--threads"):
        torch.set_num_threads(threads)
    timing.keep_memory()


def device_here() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def profile_of(config: pytest.Config) -> Profile:
    profile = QUICK if config.getoption("--quick") else FULL
    return profiles.tiny(profile) if config.getoption("--tiny") else profile


@dataclass(frozen=True)
class Trial:
    """One contender of one group: one test, one row."""

    group: Group
    contender: Contender
    case: Case | None

    def __str__(self) -> str:
        g = self.group
        # What -k takes as one word: no @, no space.
        return f"{g.case}-{g.what}-c{g.channels}-b{g.batch}-{g.dtype}-{self.contender}".replace(" ", "_")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "trial" not in metafunc.fixturenames:
        return
    profile, device = profile_of(metafunc.config), device_here().type
    trials = []
    for case in getattr(metafunc.function, "cases", ()):
        trials += [Trial(g, c, case) for g, c in operator_trials(profile, device, case)]
    if hasattr(metafunc.function, "model"):
        trials += [Trial(g, c, None) for g, c in model_trials(profile, device)]
    metafunc.parametrize("trial", trials, ids=str)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.benchmark(timer=timing.replayed_clock))
            item.add_marker(pytest.mark.timeout(3600))  # torch.compile of the network takes minutes


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info["aminet_fast"] = describe_machine(device_here())


class Suite:
    """Measures a group when its first contender's test asks, all contenders in turns, and keeps the answer."""

    def __init__(self, session: pytest.Session, profile: Profile, device: torch.device) -> None:
        self.profile, self.device = profile, device
        self.start, self.within = time.monotonic(), session.config.getoption("--within")
        self.wanted: dict[Group, list[Contender]] = {}
        for item in session.items:
            trial = getattr(item, "callspec", None) and item.callspec.params.get("trial")  # type: ignore[attr-defined]
            if isinstance(trial, Trial):
                self.wanted.setdefault(trial.group, []).append(trial.contender)
        self.group: Group | None = None
        self.answers: dict[Contender, tuple[list[float], Ready] | Exception] = {}

    def answer(self, trial: Trial) -> tuple[list[float], Ready]:
        """(samples, the contender), or raises what stood in its way."""
        if trial.group != self.group:
            self.group, self.answers = trial.group, {}
            try:
                self.answers = self._measure(trial)
            except Exception as error:
                self.answers = dict.fromkeys(self.wanted[trial.group], error)
        answer = self.answers[trial.contender]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def late(self) -> bool:
        return self.within is not None and time.monotonic() - self.start > self.within

    def _measure(self, trial: Trial) -> dict[Contender, tuple[list[float], Ready] | Exception]:
        contenders = self.wanted[trial.group]
        late = NotThereError(f"not begun within {self.within} s")
        if self.late:
            return dict.fromkeys(contenders, late)
        ready: dict[Contender, Ready] = {}
        answers: dict[Contender, Any] = {}
        if trial.case is None:
            work: Any = model.ModelGroup(trial.group, self.device)
        else:
            work = OperatorGroup(trial.case, trial.group, self.device)
        for contender in contenders:
            if self.late:  # compiling took the time; those that are ready are timed
                answers[contender] = late
                continue
            try:
                prepared = work.prepare(contender)
                prepared.sample()
                ready[contender] = prepared
            except Exception as error:  # it is this contender's answer; the others are still timed
                answers[contender] = error
        plan = self.profile.plan(trial.group)
        samples = timing.interleave({str(c): r.sample for c, r in ready.items()}, plan)
        return answers | {c: (samples[str(c)], r) for c, r in ready.items()}


@pytest.fixture(scope="session")
def device() -> torch.device:
    return device_here()


@pytest.fixture(scope="session")
def tiny(request: pytest.FixtureRequest) -> bool:
    return request.config.getoption("--tiny")


@pytest.fixture(scope="session")
def suite(request: pytest.FixtureRequest, device: torch.device) -> Suite:
    return Suite(request.session, profile_of(request.config), device)


@pytest.fixture
def write(benchmark: Any, request: pytest.FixtureRequest, device: torch.device) -> Callable[..., None]:
    """``write(group, contender, samples, work, **notes)``: the row, for pytest-benchmark and for --rows."""

    def run(group: Group, contender: Contender, samples: list[float], work: dict[str, float], **notes: Any) -> None:
        benchmark.group = str(group)
        timing.replay(samples)
        benchmark.pedantic(lambda: None, rounds=len(samples))
        median = statistics.median(samples)
        about = {k: getattr(group, k) for k in ("case", "what", "dtype", "channels", "side", "batch")}
        rates = {rate: work[k] / median / 1e9 for k, rate in (("bytes", "GB/s"), ("flops", "GFLOP/s")) if work.get(k)}
        row = about | {"kind": contender.kind, "layout": contender.layout, "run": RUN} | work | rates | notes
        benchmark.extra_info.update(row)
        if file := request.config.getoption("--rows"):
            row |= {"median": median, "iqr": timing.iqr(samples), "rounds": len(samples)}
            with open(file, "a", encoding="utf-8") as out:
                if out.tell() == 0:
                    out.write(json.dumps({"machine": describe_machine(device)}) + "\n")
                out.write(json.dumps(row) + "\n")

    return run


@pytest.fixture
def record(suite: Suite, write: Callable[..., None]) -> Callable[[Trial], None]:
    """Times the trial's group, if that was not done, and writes this contender's row."""

    def run(trial: Trial) -> None:
        try:
            samples, ready = suite.answer(trial)
        except NotThereError as problem:
            pytest.skip(str(problem))
        if trial.case is None:
            work = {"flops": model.flops(trial.group)}
        else:
            work = {"bytes": trial.case.bytes(trial.group), "flops": trial.case.flops(trial.group)}
        write(trial.group, trial.contender, samples, work, error=ready.error, **ready.notes)

    return run
