"""A phase's rows as tables, and its exit status."""

from __future__ import annotations

from collections import defaultdict

from . import again
from .run import Row

WRONG, FAILED = 1, 4
BAD = ("failed", *again.ENDS)
OF_NUMBERS = ("parity", "step parity", "inference")


def summary(rows: list[Row]) -> str:
    """What a reader wants first; everything is in the rows."""
    about = next((row for row in rows if row["row"] == "about"), {})
    machine = about.get("machine", {})
    title = f"phase {about.get('phase')} on {machine.get('device')}, torch {machine.get('torch')}"
    lines = [f"{title}, commit {machine.get('commit')}; pack: {about.get('pack', {}).get('state')}", ""]
    for make in (_times, _parity, _operators, _profiles, _training, _sections):
        if made := make(rows):
            lines += [*made, ""]
    return "\n".join(lines).rstrip()


def _times(rows: list[Row]) -> list[str]:
    found = [row for row in rows if row["row"] in ("step", "inference")]
    if not found:
        return []
    wrong = {r["contender"] for r in rows if r["row"] == "step parity" and not r["right"] and r["dtype"] == "bfloat16"}
    lines = [f"{'':18}{'contender':22}{'mode':8}{'batch':>6}{'ms':>10}{'peak GB':>9}"]
    for row in found:
        peak = f"{row['peak_bytes'] / 1e9:9.2f}" if "peak_bytes" in row else " " * 9
        right = row.get("right", row["contender"] not in wrong)
        line = f"{row['what']:18}{row['contender']:22}{row['mode']:8}{row['batch']:6}{row['ms']:10.3f}{peak}"
        lines.append(line + ("" if right else "  WRONG NUMBERS"))
    return lines


def _parity(rows: list[Row]) -> list[str]:
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row["row"] == "parity":
            groups[row["operator"], row["backend"], row["dtype"]].append(row)
    lines = []
    for (operator, backend, dtype), found in groups.items():
        wrong = [row for row in found if not row["right"]]
        worst = max((float(row.get("error", "inf")) for row in found), default=0.0)
        line = f"{operator:20}{backend:8}{dtype:10}{len(found):3} cases, worst {worst:.1e}"
        lines.append(line + (f"  WRONG: {', '.join(row['case'] for row in wrong)}" if wrong else ""))
    return lines


def _operators(rows: list[Row]) -> list[str]:
    """us of each backend: forward, forward and backward."""
    backends = ("triton", "cuda", "cpu", "reference")
    found: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row["row"] == "operator" and "problem" not in row:
            found[row["operator"], row["case"]][row["backend"]] = row
    there = [name for name in backends if any(name in by_backend for by_backend in found.values())]
    lines = [f"{'us, forward and both':40}" + "".join(f"{name:>18}" for name in there)] if found else []
    for (operator, case), by_backend in found.items():
        cells = [by_backend.get(name) for name in there]
        numbers = [f"{c['forward_us']:9.1f}{c['both_us']:9.1f}" if c else " " * 18 for c in cells]
        lines.append(f"{operator + ' ' + case:40}" + "".join(numbers))
    return lines


def _profiles(rows: list[Row]) -> list[str]:
    lines = []
    for row in (row for row in rows if row["row"] == "profile"):
        lines.append(f"{row['contender']}: {row['count']} launches, {row['us'] / 1e3:.2f} ms in kernels")
        lines += [f"  {us:9.0f} us {count:5} x {name[:80]}" for name, count, us in row["table"][:8]]
    return lines


def _training(rows: list[Row]) -> list[str]:
    kinds = ("training", "curves", "sanitizer")
    return [
        ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("tail", "section"))
        for row in rows
        if row["row"] in kinds
    ]


def _sections(rows: list[Row]) -> list[str]:
    lines = [f"{'section':22}{'status':10}{'seconds':>8}"]
    for row in (row for row in rows if row["row"] == "end"):
        kernels = row.get("kernels")
        note = f"{row['note']}" + (
            f" (Triton: {kernels['hits']} found, {kernels['misses']} compiled)" if kernels else ""
        )
        lines.append(f"{row['name']:22}{row['status']:10}{row['seconds']:8.1f}  {note}")
    lines += [f"not done: {row['what']}: {row['why']}" for row in rows if row["row"] == "skipped"]
    lines += [f"problem: {row['contender']} {row['what']}: {row['problem']}" for row in rows if row["row"] == "problem"]
    return lines


def exit_status(rows: list[Row], names: list[str]) -> int:
    """0, 1 where numbers are wrong or parity was to be reached and was not, 4 where a section failed."""
    ended = {row["name"] for row in rows if row["row"] == "end"}
    wrong = any(row["row"] in OF_NUMBERS and row.get("right") is False for row in rows)
    wrong |= any(row["row"] == "sanitizer" and row["status"] == "errors" for row in rows)
    reached = "parity" not in names or any(row["row"] == "parity" for row in rows)
    if wrong or not reached:
        return WRONG
    bad = not ended.issuperset(names) or any(row["row"] == "problem" for row in rows)
    bad |= any(row["row"] == "end" and row["status"] in BAD for row in rows)
    return FAILED if bad else 0
