"""What a run says: lines on the terminal and in log.txt, TensorBoard events."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ...output.extras import missing
from .folder import Lines


class _Console(Console):
    """A reader that has gone (``aminet train | head``) makes it silent, and does not end the program."""

    def on_broken_pipe(self) -> None:
        with suppress(SystemExit):
            super().on_broken_pipe()


class RunLog:
    """Lines for people: ``say`` also appends to the log file, ``progress`` draws a bar where there is a terminal.

    On processes other than the main one everything is silent. `open` is called once the run folder is known to be good.
    """

    def __init__(self, main: bool) -> None:
        self.main = main
        self._file: Lines | None = None
        self.console = _Console(quiet=not main, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def open(self, path: Path) -> None:
        """Append what is said to this file, too."""
        self._file = Lines(path)

    def start(self, step: int, total: int) -> None:
        """Show the bar, when standard output is a terminal."""
        if self.console.is_terminal and self.main:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=12),
                console=self.console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", completed=step, total=total)
            self._bar.start()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, text: str, *, style: str | None = None) -> None:
        """One line on the terminal and, with the time, in log.txt."""
        self._print(text, style)
        self.note(text)

    def _print(self, text: str, style: str | None = None) -> None:
        """A full disk behind standard output, or a terminal that was closed, must not end the training."""
        with suppress(OSError):
            self.console.print(escape(text), style=style)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}", style="yellow")

    def note(self, text: str) -> None:
        """One line in log.txt alone."""
        if self._file is None:
            return
        try:
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        except OSError as error:
            self._print(f"warning: cannot write {self._file.path}: {error.strerror}", "yellow")

    def progress(self, step: int, text: str, *, row: bool) -> None:
        """Move the bar at every step; write ``text`` as a line when a row of the CSV is due."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=escape(text))
            if row:
                self.note(text)
        elif row:
            self.say(text)


def duration(seconds: float) -> str:
    """1:02:03, or ? when unknown."""
    if not math.isfinite(seconds):
        return "?"
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def tensorboard_writer() -> Any:
    """TensorBoard's SummaryWriter class; raises ImportError naming the extra that brings it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing("tracking", "--tensorboard needs TensorBoard") from error
    return SummaryWriter
