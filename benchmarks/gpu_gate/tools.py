"""compute-sanitizer over tiny shapes, and Nsight Compute's counters of the longest kernels."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
from typing import Any

from .phases import ROOT
from .run import Run, SkippedError

TAIL = 3000
METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes.sum",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed.sum",
    "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "sm__inst_executed_pipe_fma.sum",
    "sm__inst_executed_pipe_alu.sum",
    "sm__inst_executed_pipe_lsu.sum",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum",
    "launch__registers_per_thread",
    "launch__occupancy_limit_registers",
)
LAUNCHES = 40  # that are counted: each is run several times


def memcheck(run: Run) -> None:
    """Accesses out of bounds, of every operator forward and backward."""
    if run.cuda:
        _sanitized(run, "memcheck")
        return
    run.skip("memcheck", "not on cpu: its target runs without it")
    target = [sys.executable, "-m", "benchmarks.sanitizer_target", "--device", "cpu", "--only", "layer_norm2d"]
    code, text = _output(run, target, {})
    run.write("sanitizer", tool="none", status="ok" if code == 0 else f"exit status {code}", tail=text[-TAIL:])


def racecheck(run: Run) -> None:
    """Races in shared memory."""
    if not run.need_cuda("racecheck"):
        return
    _sanitized(run, "racecheck")


def _sanitized(run: Run, tool: str) -> None:
    if not (program := shutil.which("compute-sanitizer")):
        raise SkippedError("compute-sanitizer is not installed")
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.sanitizer_target"]
    # Else an access past a tensor stays in torch's own pool of memory.
    code, text = _output(run, command, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
    ran = re.findall(r"^ran (.+)$", text, re.MULTILINE)
    errors = [line for line in text.splitlines() if "ERROR SUMMARY" in line or "RACECHECK SUMMARY" in line]
    status = {0: "ok", 9: "errors", None: "stopped"}.get(code, f"exit status {code}")
    kept = {} if code == 0 else {"tail": text[-TAIL:]}
    run.write("sanitizer", tool=tool, status=status, ran=ran, summary=errors[-1:], **kept)


def counters(run: Run) -> None:
    """ncu over one step of ours; the clocks are left alone."""
    if not run.need_cuda("ncu"):
        return
    if not (program := shutil.which("ncu")):
        raise SkippedError("ncu is not installed")
    from .profiles import longest

    if not (names := [short(name) for name in longest(run)]):
        raise SkippedError("the profile of a step has no kernel")
    command = [program, "--csv", "--page", "raw", "--clock-control", "none", "--profile-from-start", "off"]
    command += ["--metrics", ",".join(METRICS), "--launch-count", str(LAUNCHES)]
    command += ["--kernel-name", "regex:" + "|".join(re.escape(name) for name in dict.fromkeys(names))]
    command += [sys.executable, "-m", "benchmarks.gpu_gate.target"]
    code, text = _output(run, command, {})
    found = counted(text)
    for row in found:
        run.write("counters", **row)
    if not found:
        run.write("problem", contender="", what="ncu", problem=f"exit status {code}: {text[-TAIL:]}")


def counted(text: str) -> list[dict[str, Any]]:
    """Rows of ncu's CSV, which follows whatever the program itself printed."""
    start = text.find('"ID"')
    lines = text[start:].splitlines() if start >= 0 else []
    lines = [line for line in lines if line.startswith('"')]
    rows = []
    for entry in csv.DictReader(io.StringIO("\n".join(lines))):
        numbers = {name: number(value) for name, value in entry.items() if name in METRICS}
        if entry.get("Kernel Name") and any(value is not None for value in numbers.values()):
            grid = {"grid": entry.get("Grid Size", ""), "block": entry.get("Block Size", "")}
            rows.append({"kernel": entry["Kernel Name"], **grid, **numbers})
    return rows


def number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None


def short(name: str) -> str:
    """A kernel's own name, of the profiler's: "void (anonymous namespace)::front<...>(...)" is front."""
    bare = re.sub(r"\(anonymous namespace\)", "", name)
    bare = re.split(r"[<(]", bare)[0]
    return re.split(r"[\s:]", bare.strip())[-1] or name


def _output(run: Run, command: list[str], env: dict[str, str]) -> tuple[int | None, str]:
    """(exit status, None where it was stopped; what it printed)."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=max(run.left() - 1, 1),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return None, (error.stdout or b"").decode(errors="replace")
    return done.returncode, done.stdout.decode(errors="replace")
