"""SIGINT and SIGTERM: the first asks the run to save and stop, the second ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

_WATCHED = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Context manager; ``requested`` is the name of the signal that came, or None.

    Outside the main thread Python takes no signals; then nothing is installed and ``requested`` stays None.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._handle) for s in _WATCHED}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if (
            os.getpid() != self._owner
        ):  # a forked loader process has inherited the handler: the run's own process decides
            return
        if self.requested is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.requested = signal.Signals(number).name
        # os.write: print is not safe in a handler that may interrupt another print
        os.write(
            sys.__stderr__.fileno() if sys.__stderr__ else 2,
            f"\n{self.requested}: finishing this step, then saving. Once more quits at once.\n".encode(),
        )


def ignore_interrupt(worker: int) -> None:
    """For loader processes: Ctrl-C reaches the whole process group, and the last step still needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
