"""The process that runs sections: each within its seconds, each noted when it begins and when it ends."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from . import again
from .phases import PHASES, Section
from .run import Row, Rows, Run, SkippedError

LEAST = 3.0  # seconds that a section is begun with
GRACE = 8.0  # that it may go on beyond its own before the process ends
DRY = 10  # times the seconds for a section of a dry run, on a machine that may be busy
BROKEN = 70  # exit status after an error that the device does not recover from


def work(options: argparse.Namespace) -> int:
    """The sections that the options name, in order."""
    rows = Rows(options.out / f"results-{options.phase}.jsonl")
    by_name = {section.name: section for section in PHASES[options.phase]}
    for name in options.sections.split(","):
        section = by_name[name]
        most = section.limit * (DRY if options.dry_run else 1)
        limit = min(most, options.until - time.time() - section.keep_back)
        if limit < LEAST:
            rows.write("end", name=name, status="skipped", note="no time left", seconds=0.0)
            continue
        if not one(section, rows, options, limit):
            return BROKEN
    return 0


def one(section: Section, rows: Rows, options: argparse.Namespace, limit: float) -> bool:
    """Runs a section; whether the device is still of use."""
    start, before = time.time(), rows.read()
    rows.write("begin", name=section.name, at=start, limit=limit)
    print(f"== {section.name} (at most {limit:.0f} s)", flush=True)
    device = torch.device("cpu" if options.dry_run else "cuda")
    known = again.tried(before, section.name), again.culprits(before, section.name)
    run = Run(device, options.dry_run, rows, options.out, options.work, options, section.name, start + limit, *known)
    # Also where Python waits for a kernel that hangs; a dry run has none, and may be part of another process.
    faulthandler.dump_traceback_later(limit + GRACE, exit=not options.dry_run, file=sys.__stderr__)
    with listening() as found:
        status, note = outcome(section, run)
    faulthandler.cancel_dump_traceback_later()
    kernels = {"kernels": found} if any(found.values()) else {}
    there = usable(device)
    status = status if there else "broken"
    rows.write("end", name=section.name, status=status, note=note, seconds=time.time() - start, **kernels)
    print(f"== {section.name}: {status} {note} ({time.time() - start:.1f} s)", flush=True)
    return there


def outcome(section: Section, run: Run) -> tuple[str, str]:
    """ "ok", "skipped" or "failed", and why."""
    try:
        section.function()(run)
    except SkippedError as error:
        return "skipped", str(error)
    except ModuleNotFoundError as error:
        return "skipped", f"{error.name} is not installed"
    except Exception as error:
        traceback.print_exc()
        run.rows.write("log", name=section.name, tail=traceback.format_exc()[-4000:])
        return "failed", f"{type(error).__name__}: {str(error)[:300]}"
    return "ok", ""


def usable(device: torch.device) -> bool:
    """Whether the next section may run in this process."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except RuntimeError:
            print("the device is of no more use in this process", file=sys.stderr)
            return False
    return True


@contextlib.contextmanager
def listening() -> Iterator[Row]:
    """How many Triton kernels were found compiled, and which were compiled here."""
    found: dict[str, Any] = {"hits": 0, "misses": 0, "missed": []}
    try:
        from triton import knobs

        before = knobs.compilation.listener
    except (ImportError, AttributeError):
        yield found
        return

    def listen(*, src: Any, cache_hit: bool, **_: Any) -> None:
        found["hits" if cache_hit else "misses"] += 1
        if not cache_hit and len(found["missed"]) < 40:
            found["missed"].append(src.name)

    knobs.compilation.listener = listen
    try:
        yield found
    finally:
        knobs.compilation.listener = before
