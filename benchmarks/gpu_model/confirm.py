"""What a GPU confirmed, for aminet_fast/ops/confirmed.json: ``python -m benchmarks.gpu_model --confirm RESULTS``.

RESULTS is a results-A.jsonl of make gpu-gate. An operator's kernels are confirmed in a dtype when every case of the
network's sizes gave the right outputs and gradients there; what was wrong loses an entry that it had.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str, str]  # operator, backend, dtype
ROOT = Path(__file__).resolve().parents[2]


def network_cases(operator: str, dtype: str) -> set[str]:
    """Names of the cases that have to be right: those of the network's sizes."""
    import importlib

    tried = importlib.import_module("tests.harness.triton.case")
    names = [case for case in tried.cases_of(operator) if case.network and not case.tf32]
    return {case.name for case in names if f"torch.{dtype}" in map(str, case.dtypes)}


def confirm(results: Path, table: Path, wanted: Callable[[str, str], set[str]] = network_cases) -> list[str]:
    """Rewrite the table; a line for each operator, backend and dtype that the results have.

    wanted: (operator, dtype) -> names of the cases that have to be right.

    Raises ValueError where the results are not of a GPU.
    """
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.strip()]
    machine = next((row for row in rows if row["row"] == "about"), {}).get("machine", {})
    if machine.get("device_type") != "cuda":
        raise ValueError(f"{results} is not of a GPU; make gpu-gate PHASE=A writes one that is")
    versions = next((row["versions"] for row in rows if row["row"] == "probe"), {})
    of = {name: str(versions.get(name) or machine.get(name)) for name in ("torch", "triton")}
    data = json.loads(table.read_text(encoding="utf-8"))
    entries: dict[Key, Row] = {(e["operator"], e["backend"], e["dtype"]): e for e in data["entries"]}
    lines = []
    for key, found in grouped(rows).items():
        problem = problem_of(found, wanted(key[0], key[2]))
        what = f"{key[0]}, {key[1]}, {key[2]}"
        if not problem:
            names = dict(zip(("operator", "backend", "dtype"), key, strict=True))
            entries[key] = names | {"source": found[0]["source"], "device": machine["device"], "versions": of}
            lines.append(f"confirmed: {what}, {len(found)} cases")
            continue
        refuted = "wrong" in problem and entries.get(key, {}).get("source") == found[0].get("source")
        if refuted:
            del entries[key]
        lines.append(f"not confirmed: {what}: {problem}" + ("; its entry was removed" if refuted else ""))
    data["entries"] = [entries[key] for key in sorted(entries)]
    table.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    return lines


def grouped(rows: list[Row]) -> dict[Key, list[Row]]:
    """Rows of parity by operator, backend and dtype."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        if row["row"] == "parity":
            found[row["operator"], row["backend"], row["dtype"]].append(row)
    return dict(sorted(found.items()))


def problem_of(rows: list[Row], wanted: set[str]) -> str:
    """Why these rows confirm nothing; "" where they do."""
    wrong = [row["case"] for row in rows if not row["right"]]
    if wrong:
        return f"wrong at {', '.join(wrong)}"
    if other := [row["case"] for row in rows if "served" in row]:
        return f"other kernels served {', '.join(other)}"
    if missing := wanted - {row["case"] for row in rows}:
        return f"not reached: {', '.join(sorted(missing))}"
    sources = {row["source"] for row in rows}
    return "" if len(sources) == 1 and "unknown" not in sources else "it is not known which source ran"
