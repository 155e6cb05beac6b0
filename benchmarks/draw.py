"""The report's picture and its CSV."""

from __future__ import annotations

import csv
from pathlib import Path

from aminet_fast.output.atomic import atomic_write
from aminet_fast.output.extras import missing

from .budgets import MEMORY
from .rows import KEY, Results
from .verdicts import PASS, SHORT, Verdict

COLOUR = {PASS: "tab:green", SHORT: "tab:red"}
FIRST = (*KEY, "kind", "layout", "median", "iqr", "rounds")


def write_csv(results: Results, path: Path) -> None:
    """Every row, a column for everything that some row has."""
    rest = dict.fromkeys(k for row in results.rows for k in row if k not in FIRST)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*FIRST, *rest])
        writer.writeheader()
        writer.writerows(results.rows)


def draw(verdicts: list[Verdict], title: str, path: Path) -> None:
    """A bar for every bound: how much of what is wanted was found, 1 being the budget. Raises ImportError."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("plot", "the picture needs matplotlib") from error
    figure = Figure(figsize=(10, 1.5 + 0.4 * len(verdicts)), layout="constrained")
    axes = figure.subplots()
    for place, v in enumerate(verdicts):
        part = 0.0
        if v.ratio:
            part = v.bound.value / v.ratio if v.bound.against == MEMORY else v.ratio / v.bound.value
        axes.barh(place, part, color=COLOUR.get(v.verdict, "lightgrey"))
        axes.text(part, place, f" {v.found} {v.verdict}", va="center", fontsize="small")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(verdicts)), [f"{v.budget.name}\n{v.wanted}" for v in verdicts], fontsize="small")
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel("of what is wanted; the line is the budget")
    axes.set_title(title, fontsize="small")
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix.lstrip(".") or "png", dpi=120)
