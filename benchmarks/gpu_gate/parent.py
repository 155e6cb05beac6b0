"""Runs a phase's sections in a process of their own, and the rest of them in another when that one died.

The section that it died in is begun again, without the item that it was at.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from ..rows import describe_machine
from ..steps import LEAST, OK, TIMED_OUT, Deadline, Step, run_step
from . import again
from .phases import PACK_USED, ROOT, Section
from .run import Row, Rows

TAIL = 6_000  # characters of the log that a row keeps of what failed
MARGIN = 4.0  # seconds to tidy up, at the end
PATIENCE = {"C": 45.0}  # from SIGTERM to SIGKILL, where weights have to be saved


def conduct(
    options: argparse.Namespace, given: list[str], sections: tuple[Section, ...], results: Path, until: float
) -> list[Row]:
    """All rows. until: the time at which everything has to be done."""
    import torch

    rows, log = Rows(results), options.work / "log.txt"
    machine = describe_machine(torch.device("cpu" if options.dry_run else "cuda"))
    pack = packed(options)
    env = joined(environment(), pack.pop("env")) | {PACK_USED: str(int(pack["usable"]))}
    rows.write(
        "about", phase=options.phase, machine=machine, pack=pack, arguments=given, begun=time.strftime("%FT%T%z")
    )
    print(f"gpu-gate: phase {options.phase}; pack: {pack['state']}", flush=True)
    waiting = [section.name for section in sections]
    while waiting and until - time.time() > LEAST:
        limit, begun = until - time.time() - MARGIN, sum(row["row"] == "begin" for row in rows.read())
        command = [sys.executable, "-m", "benchmarks.gpu_gate", *given, "--out", str(options.out)]
        command += ["--sections", ",".join(waiting), "--until", str(until - MARGIN)]
        step = Step(f"phase {options.phase}", command, limit, env, grace=PATIENCE.get(options.phase, 5.0))
        done = run_step(step, Deadline(limit + LEAST), log, Path.cwd())
        ended = _ended(rows.read())
        if done.status != OK and (lost := _lost(rows.read(), ended)):
            text = log.read_text(errors="replace").rpartition("\n==== ")[2]
            timed_out = done.status == TIMED_OUT or "Timeout (" in text
            status = "timed out" if timed_out else "died"
            rows.write("end", name=lost, status=status, note=done.note, seconds=_since(rows.read(), lost))
            rows.write("log", name=lost, tail=text[-TAIL:])
            print(f"gpu-gate: {lost}: {status}", flush=True)
            ended.add(lost)
        found = rows.read()
        waiting = [name for name in waiting if name not in ended or again.begins_again(found, name)]
        hung = {row["name"] for row in found if row["row"] == "end" and row["status"] == "timed out"}
        waiting.sort(key=lambda name: name in hung)  # it would take its seconds from the others once more
        if done.status == OK:
            break
        if sum(row["row"] == "begin" for row in found) == begun:
            rows.write("log", name="", tail=log.read_text(errors="replace")[-TAIL:])
            break
    for name in waiting:
        if name not in _ended(rows.read()):
            rows.write("end", name=name, status="skipped", note="not begun", seconds=0.0)
    return rows.read()


def _ended(rows: list[Row]) -> set[str]:
    """Names of the sections whose last beginning has an end."""
    last = {row["name"]: row["row"] for row in rows if row["row"] in ("begin", "end")}
    return {name for name, kind in last.items() if kind == "end"}


def _lost(rows: list[Row], ended: set[str]) -> str:
    """The section that was begun and not ended; "" where there is none."""
    begun = [row["name"] for row in rows if row["row"] == "begin"]
    return next((name for name in reversed(begun) if name not in ended), "")


def _since(rows: list[Row], name: str) -> float:
    return time.time() - next(row["at"] for row in reversed(rows) if row["row"] == "begin" and row["name"] == name)


def packed(options: argparse.Namespace) -> dict[str, Any]:
    """{"usable": whether what was compiled beforehand is of this tree, "state": in words, "env": for the sections}."""
    if options.dry_run:
        return {"usable": False, "state": "not looked for in a dry run", "env": {}}
    if not options.pack.is_dir():
        return {"usable": False, "state": f"none in {options.pack}: everything is compiled here", "env": {}}
    try:
        from ..gpu_pack.manifest import state
        from ..gpu_pack.unpack import activate

        usable, why = state(ROOT, options.pack)
        env = activate(options.pack, ROOT / "build" / "gpu-unpacked") if usable else {}
    except Exception as error:  # a pack that is of no use must not end the gate
        return {"usable": False, "state": f"{type(error).__name__}: {str(error)[:200]}", "env": {}}
    return {"usable": usable, "state": why or ("used" if usable else "of another tree"), "env": env}


def joined(env: dict[str, str], of_pack: dict[str, str]) -> dict[str, str]:
    """Both; the folders of PYTHONPATH one after the other, the pack's first."""
    paths = [found["PYTHONPATH"] for found in (of_pack, env) if found.get("PYTHONPATH")]
    return env | of_pack | {"PYTHONPATH": os.pathsep.join(paths)}


def environment() -> dict[str, str]:
    """This tree first, and the compiler's target from the device."""
    import torch

    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
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
