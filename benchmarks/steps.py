"""Commands run one after the other, each with its own time limit inside the limit of all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

OK, FAILED, TIMED_OUT, SKIPPED = "ok", "FAILED", "TIMED OUT", "skipped"
LEAST = 5.0  # seconds that a step is begun with
GRACE = 5.0  # from SIGTERM to SIGKILL


@dataclass(frozen=True)
class Step:
    """`command` gets `limit` seconds; {seconds} in it becomes what it has. `skip` says why it is not run."""

    name: str
    command: list[str]
    limit: float
    env: dict[str, str] = field(default_factory=dict)
    skip: str = ""
    keep_back: float = 0.0  # seconds of the whole that later steps need
    grace: float = GRACE  # from SIGTERM to SIGKILL


@dataclass
class Done:
    step: Step
    status: str
    seconds: float = 0.0
    note: str = ""


class Deadline:
    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


def run_step(step: Step, deadline: Deadline, log: Path, cwd: Path) -> Done:
    """Runs it and appends its output to `log`; never raises for what the command does."""
    if step.skip:
        return Done(step, SKIPPED, note=step.skip)
    limit = min(step.limit, deadline.left - step.keep_back)
    if limit < LEAST:
        return Done(step, SKIPPED, note="no time left")
    command = [part.format(seconds=int(limit * 0.7)) if "{seconds}" in part else part for part in step.command]
    start = time.monotonic()
    with log.open("ab") as out:
        out.write(f"\n==== {step.name}: {' '.join(command)}\n".encode())
        out.flush()
        try:
            # A group of its own, so that what it started ends with it.
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**os.environ, **step.env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=os.setpgrp,
            )
        except OSError as error:
            return Done(step, FAILED, note=f"{command[0]} does not start: {error.strerror}")
        with ended_with_us(process, step.grace):
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                end(process, step.grace)
                return Done(step, TIMED_OUT, time.monotonic() - start, f"stopped after {limit:.0f} s")
            finally:
                end(process)
    note = "" if code == 0 else f"exit status {code}: {last_line(log)}"
    return Done(step, OK if code == 0 else FAILED, time.monotonic() - start, note)


def end(process: subprocess.Popen[bytes], grace: float = GRACE) -> None:
    """The process and all that it started."""
    for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, GRACE)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


@contextmanager
def ended_with_us(process: subprocess.Popen[bytes], grace: float = GRACE) -> Iterator[None]:
    """When we are told to end, the step ends too."""

    def stop(number: int, _frame: object) -> None:
        end(process, grace)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""
