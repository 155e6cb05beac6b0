"""How much the suite runs: everything, or what the budgets ask for (--quick); --tiny shrinks either."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from . import budgets
from .cases import INFERENCE, SIZES, STEP, Case, Group
from .contenders import KINDS, LAYOUTS, Contender
from .timing import Plan

ALL = [Contender(kind, layout) for kind in KINDS for layout in LAYOUTS]


@dataclass(frozen=True)
class Profile:
    everything: bool
    operators: Plan
    network: Plan
    shrink: int = 1  # divides sides
    batch: int | None = None  # in place of the network's

    def plan(self, group: Group) -> Plan:
        return self.network if group.case == "model" else self.operators


FULL = Profile(True, operators=Plan(30, 10, least=5), network=Plan(15, 120, least=5))
QUICK = Profile(False, operators=Plan(15, 0.5, least=5), network=Plan(9, 12, least=3))


def tiny(profile: Profile) -> Profile:
    """The same work on shapes of a few pixels."""
    return replace(profile, operators=Plan(2, 0), network=Plan(2, 0), shrink=8, batch=1)


def contenders(profile: Profile, device: str, case: str, what: str) -> list[Contender]:
    """Eager in both layouts first: it sets the scale. Quick: what a budget compares, and ours where it is native."""
    if profile.everything:
        return ALL
    eager = [c for c in ALL if c.kind == "eager"]
    compare = {
        bound.against for b in budgets.budgets(device) if case in b.cases and what == b.what for bound in b.bounds
    }
    # Compiling takes the CPU's budget of time many times over.
    compiled = [c for c in ALL if c.kind == "compiled" and device != "cpu" and budgets.COMPILED in compare]
    ours = [Contender("ours", "channels_last")]
    if case == "model" and what == INFERENCE and device != "cpu":
        ours.append(Contender("ours+compiled", "channels_last"))
    return [*eager, *ours[:1], *compiled, *ours[1:]]


def dtypes(profile: Profile, device: str) -> list[str]:
    return ["float32", "bfloat16"] if profile.everything else [budgets.DTYPE[device]]


def operator_trials(profile: Profile, device: str, case: Case) -> Iterator[tuple[Group, Contender]]:
    asked = {b.what for b in budgets.budgets(device) if case.name in b.cases}
    whats = [w for w in case.whats if profile.everything or w in asked]
    batch = profile.batch or budgets.OPERATOR_BATCH[device]
    for dtype in dtypes(profile, device):
        for what in whats:
            for channels, side in SIZES:
                group = Group(case.name, what, dtype, channels, side // profile.shrink, batch)
                for contender in contenders(profile, device, case.name, what):
                    yield group, contender


def model_trials(profile: Profile, device: str) -> Iterator[tuple[Group, Contender]]:
    side = 128 // profile.shrink
    batches = budgets.INFERENCE_BATCH if profile.everything else budgets.INFERENCE_BATCH[:1]
    work = [(INFERENCE, batch) for batch in batches] + [(STEP, budgets.STEP_BATCH[device])]
    for dtype in dtypes(profile, device):
        for what, batch in work:
            # One pixel in training mode has no variance: the deepest stage keeps more of them.
            group = Group("model", what, dtype, 24, side * (2 if profile.shrink > 1 else 1), profile.batch or batch)
            for contender in contenders(profile, device, "model", what):
                yield group, contender
