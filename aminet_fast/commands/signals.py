"""SIGTERM, which ends a command's work as Ctrl-C does."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the work as Ctrl-C does: unfinished files are removed, and how to go on is said."""

    number = signal.SIGTERM


def run_until_terminated(work: Callable[[], int]) -> int:
    """Returns what `work` returns, or 143 where SIGTERM ended it."""
    try:
        with _sigterm_interrupts():
            return work()
    except _Terminated:
        print("aminet: terminated", file=sys.stderr)
        return 128 + signal.SIGTERM


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python takes no signals there
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
