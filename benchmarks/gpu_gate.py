"""``make gpu-gate``: what only a GPU can show, in nine minutes: build, parity, sanitizer, benchmarks, a report.

Each step is a process with a time limit, so that one that hangs costs its own time only. Nothing is installed or
fetched. Exit status: 0 all steps went well; 1 parity failed or was not reached; 3 no CUDA device; 4 parity holds and
another step failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .rows import ROOT, describe_machine
from .steps import FAILED, OK, SKIPPED, TIMED_OUT, Deadline, Done, Step, run_step

LIMIT = 525.0  # of all steps; the whole stays inside nine minutes
REPORT_SECONDS = 40.0
LOG_TAIL = 200_000
NO_GPU, PARITY_FAILED, OTHER_FAILED = 3, 1, 4
PARITY = "parity"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_gate", description=__doc__.split("\n\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="walk the steps on the CPU with tiny shapes")
    parser.add_argument("--out", type=Path, help="folder of the results; else $OUT, else benchmarks/results/gate")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds of all steps")
    parser.add_argument("--only", help="names of steps, with commas between; the report comes always")
    options = parser.parse_args(arguments)
    import torch

    if not torch.cuda.is_available() and not options.dry_run:
        built = f"torch {torch.__version__} is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        print(
            f"gpu-gate: no usable CUDA device here ({built or f'torch {torch.__version__} is a CPU build'}); "
            "nothing was run. --dry-run walks the steps on the CPU.",
            file=sys.stderr,
        )
        return NO_GPU
    out = options.out or Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gate")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("rows.jsonl", "log.txt"):
        (out / name).unlink(missing_ok=True)
    device = torch.device("cpu" if options.dry_run else "cuda")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    deadline = Deadline(options.limit)
    steps = chosen(plan(out, options.dry_run, environment()), options.only)
    done = [announced(step, deadline, out / "log.txt") for step in steps]
    finish(out, done, describe_machine(device))
    return exit_status(done)


def chosen(steps: list[Step], only: str | None) -> list[Step]:
    """Those named, and the report. SystemExit for a name that is no step's."""
    wanted = {step.name for step in steps} if only is None else {*only.split(","), steps[-1].name}
    if unknown := wanted - {step.name for step in steps}:
        raise SystemExit(f"gpu-gate: no step is called {', '.join(sorted(unknown))}")
    return [step for step in steps if step.name in wanted]


def environment() -> dict[str, str]:
    """For every step: this tree first, and the compiler's target from the device."""
    import torch

    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    env = {"PYTHONPATH": os.pathsep.join(p for p in paths if p), "PYTHONUNBUFFERED": "1"}
    env["MAX_JOBS"] = os.environ.get("MAX_JOBS", str(os.cpu_count() or 1))
    if torch.cuda.is_available():
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        env["TORCH_CUDA_ARCH_LIST"] = os.environ.get("TORCH_CUDA_ARCH_LIST", capability)
    nvcc = shutil.which("nvcc")
    if "CUDA_HOME" not in os.environ and nvcc:
        homes = [Path(nvcc).resolve().parents[1], Path("/usr/local/cuda")]  # the first may be a wrapper's
        complete = [str(home) for home in homes if (home / "include" / "cuda_runtime.h").exists()]
        env |= {"CUDA_HOME": complete[0]} if complete else {}
    return env


def plan(out: Path, dry: bool, env: dict[str, str]) -> list[Step]:
    """The steps in order; what matters most comes first."""
    python = [sys.executable, "-m"]
    rows, skip = str(out / "rows.jsonl"), "dry run" if dry else ""
    has_cuda = any((ROOT / "csrc" / "cuda").glob("*.cu"))
    request = "none" if dry else "cuda" if has_cuda and shutil.which("nvcc") else "cpu"
    build = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    pytest = [*python, "pytest", "-q", "-p", "no:cacheprovider"]
    first = "tests/test_gpu_parity.py"
    selected = [first, "-k", "cpu and skaf_gate"] if dry else [first, "-m", "gpu and not slow"]
    others = ["tests", f"--ignore={first}", "-m", "gpu and not slow"]
    # On all cores, so that the steps after it do not wait for one compiler after another.
    warm = [*python, "triton_harness.warm", "--seconds", "30"]
    target = [*python, "benchmarks.sanitizer_target", "--device", "cpu" if dry else "cuda"]
    sanitizer = shutil.which("compute-sanitizer")
    absent = "" if sanitizer or dry else "compute-sanitizer is not installed"
    checked = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else an access past a tensor stays in torch's own pool

    def sanitized(tool: str) -> list[str]:
        return target if dry or not sanitizer else [sanitizer, "--tool", tool, "--error-exitcode", "9", *target]

    files = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "benchmarks").glob("bench_*.py"))
    operators = [f for f in files if "bench_model" not in f]
    if dry:
        operators = [f for f in files if "ceilings" in f or "skaf_gate" in f]
    timed = [*pytest, "--benchmark-only", "--rows", rows, "--within", "{seconds}", "--quick"]
    timed += ["--tiny"] if dry else []
    network = [*timed, "benchmarks/bench_model.py"]
    report = [*python, "benchmarks.report", rows, "--rows", "--csv", str(out / "results.csv")]
    report += ["--plot", str(out / "results.png"), "--save", str(out / "results.json")]
    both = [*python, "benchmarks.backends", "--out", str(out / "backends.json")]
    later = REPORT_SECONDS
    steps = [
        Step("versions", [*python, "aminet_fast.info"], 30),
        Step("build", build, 110, {"AMINET_FAST_BUILD": request}),
        Step("kernels", warm, 45, skip=skip),
        # -v: what failed is in the log when the step is stopped before its end.
        Step(PARITY, [*pytest, "-v", *selected], 110),
        Step("memcheck", sanitized("memcheck"), 40, checked, absent),
        Step("racecheck", sanitized("racecheck"), 25, checked, absent or ("dry run" if dry else "")),
        Step("operators", [*timed, *operators], 150, keep_back=later + 60),
        Step("backends", both, 90, skip=skip, keep_back=later),
        Step("network", [*network, "-k", "inference" if dry else "not compiled"], 60, keep_back=later),
        Step("graphs", [*pytest, *others], 60, skip=skip, keep_back=later),
        Step("all cases", [*pytest, "tests", "-m", "gpu and slow"], 60, skip=skip, keep_back=later),
        # Compiling the network takes longest, and may use up what is left; its rows replace those before.
        Step("network, compiled", network, 500, skip=skip, keep_back=later),
        Step("report", report, REPORT_SECONDS),
    ]
    return [Step(s.name, s.command, s.limit, env | s.env, s.skip, s.keep_back) for s in steps]


def announced(step: Step, deadline: Deadline, log: Path) -> Done:
    print(f"gpu-gate: {step.name} ...", flush=True)
    return run_step(step, deadline, log, ROOT)


def finish(out: Path, done: list[Done], machine: dict[str, Any]) -> None:
    """machine.json, the log's tail in its place, and the table that is printed last."""
    steps = [{"name": d.step.name, "status": d.status, "seconds": round(d.seconds, 1), "note": d.note} for d in done]
    about = {"machine": machine, "operators_without_benchmark": unmeasured(), "steps": steps}
    about["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    (out / "gate.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    log = out / "log.txt"
    text = log.read_bytes() if log.exists() else b""
    if len(text) > LOG_TAIL:
        log.write_bytes(text[-LOG_TAIL:])
    if done[-1].status == OK:
        print(text.decode(errors="replace").rpartition("\n==== ")[2].partition("\n")[2])
    else:
        print(text[-3000:].decode(errors="replace"))
    table = Table(title=f"gpu-gate on {machine['device']}, torch {machine['torch']}, commit {machine['commit']}")
    for column in ("step", "status", "seconds", "note"):
        table.add_column(column)
    for d in done:
        colour = {OK: "green", SKIPPED: "yellow"}.get(d.status, "red")
        table.add_row(d.step.name, f"[{colour}]{d.status}[/{colour}]", f"{d.seconds:.0f}", d.note)
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if about["operators_without_benchmark"]:
        console.print(f"operators without a benchmark: {', '.join(unmeasured())}")
    console.print(f"results in {out}")


def unmeasured() -> list[str]:
    """Operators that no bench_*.py registers, and that parity and sanitizer therefore miss."""
    if importlib.util.find_spec("pytest") is None:
        return []
    from aminet_fast import backends, ops  # noqa: F401  ops registers them

    from .cases import all_cases

    return sorted(set(backends.operators()) - {case.public_name for case in all_cases()})


def exit_status(done: list[Done]) -> int:
    if not any(d.step.name == PARITY and d.status == OK for d in done):
        return PARITY_FAILED
    return OTHER_FAILED if any(d.status in (FAILED, TIMED_OUT) for d in done) else 0


if __name__ == "__main__":
    raise SystemExit(main())
