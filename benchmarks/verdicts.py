"""Results held against budgets: a verdict for every bound, and the sizes behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .budgets import COPY, EAGER, MEMORY, USES, USES_OF_LGFI, Bound, Budget, budgets
from .cases import SIZES
from .contenders import LAYOUTS
from .rows import Results, Row

PASS, SHORT, MISSING = "pass", "short", "not measured"


@dataclass(frozen=True)
class Part:
    """One case at one size: what ours is compared with, both in seconds (bytes for memory)."""

    label: str
    uses: int
    theirs: float | None
    ours: float | None
    bytes: float = 0.0

    @property
    def ratio(self) -> float | None:
        return self.theirs / self.ours if self.theirs and self.ours else None


@dataclass
class Verdict:
    """`ratio` is times as fast, part of copy bandwidth or part of eager's memory, as the bound is meant."""

    budget: Budget
    bound: Bound
    verdict: str
    ratio: float | None = None
    why: str = ""
    parts: list[Part] = field(default_factory=list)

    @property
    def wanted(self) -> str:
        return {COPY: f">= {self.bound.value:.0%} of copy bandwidth", MEMORY: f"<= {self.bound.value:g}x eager"}.get(
            self.bound.against, f">= {self.bound.value:g}x {self.bound.against}"
        )

    @property
    def found(self) -> str:
        if self.ratio is None:
            return "-"
        return f"{self.ratio:.0%}" if self.bound.against == COPY else f"{self.ratio:.2f}x"

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.budget.name,
            "against": self.bound.against,
            "wanted": self.bound.value,
            "ratio": self.ratio,
            "verdict": self.verdict,
            "why": self.why,
            "sizes": [asdict(part) | {"ratio": part.ratio} for part in self.parts],
        }


def judge(results: Results, device: str | None = None) -> list[Verdict]:
    """Every bound of the results' device ("cpu" or "cuda"), in the table's order."""
    device = device or results.machine.get("device_type", "cpu")
    return [judge_bound(results, budget, bound) for budget in budgets(device) for bound in budget.bounds]


def judge_bound(results: Results, budget: Budget, bound: Bound) -> Verdict:
    value = "peak_bytes" if bound.against == MEMORY else "median"
    parts = [compare(results, budget, bound, place, value) for place in places(budget)]
    other = EAGER if bound.against == MEMORY else bound.against
    missing = {
        kind: [p.label for p in parts if getattr(p, side) is None]
        for kind, side in (("ours", "ours"), (other, "theirs"))
    }
    if any(missing.values()):
        return Verdict(budget, bound, MISSING, None, absent(missing, len(parts)), parts)
    theirs, ours = (sum(getattr(p, side) * p.uses for p in parts) for side in ("theirs", "ours"))
    ratio = ours / theirs if bound.against == MEMORY else theirs / ours
    reached = ratio <= bound.value if bound.against == MEMORY else ratio >= bound.value
    slower = [p.label for p in parts if bound.against == EAGER and p.ratio is not None and p.ratio < 1]
    why = f"slower than eager at {', '.join(slower)}" if slower else ""
    return Verdict(budget, bound, PASS if reached and not slower else SHORT, ratio, why, parts)


def absent(missing: dict[str, list[str]], parts: int) -> str:
    """Which rows there are not, in words."""
    said = []
    for kind, labels in missing.items():
        if labels:
            said.append(f"no row of {kind}" + ("" if len(labels) == parts else f" at {', '.join(labels)}"))
    return "; ".join(said)


def places(budget: Budget) -> list[tuple[str, int, int, int]]:
    """(case, channels, side, uses in a step) over which the budget's sum runs."""
    if budget.of_model:
        return [("model", *SIZES[0], 1)]
    return [
        (case, channels, side, uses)
        for case in budget.cases
        for (channels, side), uses in zip(SIZES, USES.get(case, USES_OF_LGFI), strict=True)
    ]


def compare(results: Results, budget: Budget, bound: Bound, place: tuple[str, int, int, int], value: str) -> Part:
    case, channels, side, uses = place
    rows = results.find(
        case=case, what=budget.what, dtype=budget.dtype, channels=channels, side=side, batch=budget.batch
    )
    ours = best([row for row in rows if row["kind"] in budget.ours], value)
    moved = next((row["bytes"] for row in rows if "bytes" in row), 0.0)
    if bound.against == COPY:
        speed = copy_bandwidth(results, budget.dtype)
        theirs = moved / speed if speed else None
    else:
        kind = EAGER if bound.against == MEMORY else bound.against
        theirs = best([row for row in rows if row["kind"] == kind], value, complete=True)
    sized = "" if budget.of_model else f"{channels}@{side}"
    label = " ".join(word for word in ("" if len(budget.cases) == 1 else case, sized) if word)
    return Part(label or budget.what, uses, theirs, ours, moved)


def best(rows: list[Row], value: str, complete: bool = False) -> float | None:
    """The smallest; with `complete` only if both layouts were measured, since the faster one is what counts."""
    found = {row["layout"]: row[value] for row in rows if row.get(value)}
    if complete and set(LAYOUTS) - set(found):
        return None
    return min((row[value] for row in rows if row.get(value)), default=None)


def copy_bandwidth(results: Results, dtype: str) -> float | None:
    """Bytes read and written in a second."""
    return ceiling(results, "copy", dtype, "bytes")


def ceiling(results: Results, what: str, dtype: str, work: str) -> float | None:
    rows = results.find(case="ceiling", what=what, dtype=dtype)
    return rows[-1][work] / rows[-1]["median"] if rows else None


def fastest(rows: list[Row], wanted: Callable[[Row], bool]) -> Row | None:
    """Of the rows that are wanted."""
    return min((row for row in rows if wanted(row)), key=lambda row: row["median"], default=None)
