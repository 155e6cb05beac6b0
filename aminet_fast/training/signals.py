"""SIGINT, SIGTERM and SIGHUP as a wish to stop, which the training loop grants between steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

_WATCHED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
LOADER_GRACE = 30  # seconds that a loader process goes on after it was told to end


class StopSignals:
    """Notes the first signal, so that the loop can save and stop; a second one ends the process at once, as if no
    handler were there. ``requested`` is the name of the signal that came, or None.

    Until `training` is called there is nothing to save, and the first signal ends the process, too: by
    KeyboardInterrupt or SystemExit, so that unfinished files are removed.

    Outside the main thread Python takes no signals; then nothing is installed and ``requested`` stays None.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._training = False
        self._previous: dict[signal.Signals, Any] = {}
        self._owner = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in _WATCHED:
                # nohup has a process ignore that its terminal was closed.
                if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def training(self) -> None:
        """From now on a signal is a wish."""
        self._training = True

    def quiet_children(self) -> None:
        """Until the end, undo what a DataLoader did to SIGCHLD: RuntimeError wherever this process is when a loader
        process ends.

        That may be between the optimiser's step and its counter, or in the middle of a checkpoint. Without it the
        loader finds out for itself, within seconds, when the next batch is asked for.
        """
        if self._previous and hasattr(signal, "SIGCHLD"):
            self._previous[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A forked loader process has inherited the handler: the run's own process decides.
        if os.getpid() != self._owner:
            return
        if self.requested is not None:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.requested = signal.Signals(number).name
        if not self._training:
            _tell(f"{self.requested}: no step was taken yet, nothing to save.")
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        _tell(f"{self.requested}: finishing this step, then saving. Once more quits at once.")


def _tell(text: str) -> None:
    with suppress(OSError, ValueError):  # a terminal that was closed, a full disk behind it
        # os.write: print is not safe in a handler that may interrupt another print
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, f"\n{text}\n".encode())


def outlive_signals(worker: int) -> None:
    """For loader processes: signals often reach all processes of a group, and the last step still needs these.

    SIGTERM ends them after some time all the same: it is also how a process that hangs is ended.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(LOADER_GRACE))
