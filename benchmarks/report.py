"""``python -m benchmarks.report results.json``: ratios, with pass or short for every budget.

Several files of one machine, torch and commit count as one; they are what --benchmark-json or --rows wrote, or what
--save keeps. The exit status is 0 whatever the verdicts, with --check 1 unless every budget passes, and 2 for files
that cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .contenders import KINDS
from .rows import KEY, Results, merge, read, save
from .verdicts import PASS, SHORT, Verdict, ceiling, fastest, judge

STYLE = {PASS: "green", SHORT: "red"}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="JSON or JSONL of benchmarks")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every row as CSV")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the ratios (.png, .svg, .pdf)")
    parser.add_argument("--save", nargs="?", const=True, metavar="FILE", help="keep the rows, by default in results/")
    parser.add_argument("--rows", action="store_true", help="print every group's times and rates too")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="the column of budgets; else the results' own")
    parser.add_argument("--check", action="store_true", help="exit 1 unless every budget passes")
    options = parser.parse_args(arguments)
    try:
        results = merge([read(file) for file in options.files])
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    verdicts = judge(results, options.device)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if options.json:
        print(json.dumps({"machine": results.machine, "budgets": [v.to_dict() for v in verdicts]}, indent=2))
    else:
        console.print(heading(results), highlight=False)
        console.print(budget_table(verdicts))
        if options.rows:
            console.print(row_table(results))
    if options.csv:
        from .draw import write_csv

        write_csv(results, options.csv)
    if options.plot:
        from .draw import draw

        draw(verdicts, heading(results), options.plot)
    if options.save:
        kept = save(results, None if options.save is True else Path(options.save))
        print(f"saved {kept}", file=sys.stderr)
    return int(options.check and any(v.verdict != PASS for v in verdicts))


def heading(results: Results) -> str:
    """Machine, versions and ceilings in a line or two."""
    m = results.machine
    lines = [
        f"{m.get('device', 'unknown device')}, {m.get('threads', '?')} CPU threads, torch {m.get('torch', '?')}, "
        f"commit {m.get('commit', 'unknown')}{' with changes' if m.get('dirty') else ''}"
    ]
    found = []
    for dtype in ("float32", "bfloat16"):
        copy, gemm = ceiling(results, "copy", dtype, "bytes"), ceiling(results, "gemm", dtype, "flops")
        found += [f"copy {copy / 1e9:,.1f} GB/s {dtype}"] if copy else []
        found += [f"GEMM {gemm / 1e9:,.0f} GFLOP/s {dtype}"] if gemm else []
    return "\n".join([*lines, f"ceilings of this run: {', '.join(found) or 'not measured'}"])


def budget_table(verdicts: list[Verdict]) -> Table:
    table = Table(title="Budgets: ours against the faster layout of each, sums weighted by uses in a training step")
    for column in ("what", "wanted", "found", "verdict", "each size"):
        table.add_column(column)
    for v in verdicts:
        sizes = ", ".join(f"{p.label} {part_text(v, p.ratio)}" for p in v.parts) if len(v.parts) > 1 else ""
        style = STYLE.get(v.verdict, "yellow")
        text = "\n".join(t for t in (sizes if v.ratio is not None else "", v.why) if t)
        table.add_row(v.budget.name, v.wanted, v.found, f"[{style}]{v.verdict}[/{style}]", text)
    return table


def part_text(verdict: Verdict, ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio:.0%}" if verdict.bound.against == "copy" else f"{ratio:.2f}x"


def row_table(results: Results) -> Table:
    """Every group: each contender's faster layout, median +- half the IQR in ms, and our rates."""
    table = Table(
        title="Medians in ms (faster layout, +- half the interquartile range) and rates of ours, or else eager"
    )
    for column in ("what", "size", "dtype", "batch", *KINDS, "GB/s", "GFLOP/s", "peak MiB eager / ours"):
        table.add_column(column)
    groups = dict.fromkeys(tuple(row.get(k) for k in KEY) for row in results.rows if row["case"] != "ceiling")
    for group in groups:
        rows = results.find(**dict(zip(KEY, group, strict=True)))
        by_kind = {kind: fastest(rows, lambda row, kind=kind: row["kind"] == kind) for kind in KINDS}  # type: ignore[misc]
        shown = by_kind["ours"] or by_kind["eager"] or rows[0]
        case, what, dtype, channels, side, batch = map(str, group)
        times = [f"{r['median'] * 1e3:.3g} ± {r['iqr'] * 500:.2g}" if r else "-" for r in by_kind.values()]
        rates = [f"{shown[k]:.1f}" if k in shown else "-" for k in ("GB/s", "GFLOP/s")]
        peaks = [by_kind[k] and by_kind[k].get("peak_bytes") for k in ("eager", "ours")]  # type: ignore[union-attr]
        memory = " / ".join(f"{p / 2**20:,.0f}" if p else "-" for p in peaks) if any(peaks) else ""
        size = side if case == "model" else f"{channels}@{side}"
        table.add_row(f"{case} {what}", size, dtype, batch, *times, *rates, memory)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
