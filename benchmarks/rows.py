"""Rows of results: read from pytest-benchmark's JSON, from --rows' JSONL or from what is committed, and saved."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
KEY = ("case", "what", "dtype", "channels", "side", "batch")
Row = dict[str, Any]


def describe_machine(device: Any) -> dict[str, Any]:
    """What results are keyed by, and what a reader needs to repeat them."""
    import torch

    cuda = device.type == "cuda"
    return {
        "device_type": device.type,
        "device": torch.cuda.get_device_name() if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        **dict(zip(("commit", "dirty"), commit(), strict=True)),
    }


def cpu_name() -> str:
    """The model as Linux names it."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def commit() -> tuple[str, bool]:
    """(short id, whether files differ from it); AMINET_COMMIT names it where there is no repository."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("AMINET_COMMIT", "unknown"), False


@dataclass
class Results:
    machine: dict[str, Any] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def find(self, **wanted: Any) -> list[Row]:
        return [row for row in self.rows if all(row.get(k) == v for k, v in wanted.items())]


def read(path: str | Path) -> Results:
    """Raises ValueError, with the remedy, for a file that holds no results."""
    text = Path(path).read_text(encoding="utf-8")
    try:
        if Path(path).suffix == ".jsonl":
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            machine = next((line["machine"] for line in lines if "machine" in line), {})
            return Results(machine, [line for line in lines if "case" in line])
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); write it with --benchmark-json or --rows") from error
    if isinstance(data, dict) and "rows" in data:
        return Results(data.get("machine", {}), data["rows"])
    if not isinstance(data, dict) or "benchmarks" not in data:
        raise ValueError(f"{path} holds no results; write it with --benchmark-json or --rows")
    rows = []
    for entry in data["benchmarks"]:
        if "case" in entry.get("extra_info", {}):
            stats = entry["stats"]
            rows.append(entry["extra_info"] | {k: stats[k] for k in ("median", "iqr", "rounds")})
    return Results(data.get("machine_info", {}).get("aminet_fast", {}), rows)


def merge(parts: list[Results]) -> Results:
    """One set of rows; a group that several runs measured is the last one's, because ratios hold within a run."""
    device = {(p.machine.get("device"), p.machine.get("torch"), p.machine.get("commit")) for p in parts}
    if len(device) > 1:
        raise ValueError(f"these results are of different machines, torches or commits: {sorted(map(str, device))}")
    last: dict[tuple[Any, ...], tuple[str | None, list[Row]]] = {}
    for row in (row for part in parts for row in part.rows):
        key = tuple(row.get(k) for k in KEY)
        if key not in last or last[key][0] != row.get("run"):
            last[key] = (row.get("run"), [])
        last[key][1].append(row)
    return Results(parts[0].machine if parts else {}, [row for _, rows in last.values() for row in rows])


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def saved_as(results: Results) -> Path:
    """results/<device>/<torch>-<commit>.json."""
    machine = results.machine
    device = slug(str(machine.get("device", "unknown")))
    if machine.get("device_type") == "cpu":
        device += f"-{machine.get('threads', 1)}-threads"
    return RESULTS / device / f"{slug(str(machine.get('torch', 'unknown')))}-{machine.get('commit', 'unknown')}.json"


def save(results: Results, path: Path | None = None) -> Path:
    """A slim JSON, one row a line so that differences can be read."""
    path = path or saved_as(results)
    rows = [{k: rounded(v) for k, v in row.items() if k != "run"} for row in results.rows]
    body = ",\n".join(json.dumps(row) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{{"machine": {json.dumps(results.machine)},\n"rows": [\n{body}\n]}}\n', encoding="utf-8")
    return path


def rounded(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value
