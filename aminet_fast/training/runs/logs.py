"""What a run tells as it goes: lines on the terminal and in log.txt, rows of metrics.csv, TensorBoard's events."""

from __future__ import annotations

import csv
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from ...output.extras import missing
from .folder import write_file

COLUMNS = (
    "step", "epoch", "images", "seconds", "lr", "loss", "images_per_s",
    "val_psnr", "val_ssim", "val_bicubic_psnr", "val_bicubic_ssim",
    "pixel", "perceptual", "adversarial", "discriminator",
)  # fmt: skip


class Lines:
    """A text file that grows by whole lines; those a full disk did not take are kept, and written before the next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[str] = []

    def write(self, line: str) -> None:
        """Append a line. Raises OSError when it has to wait."""
        self._waiting.append(f"{line}\n")
        self.flush()

    def flush(self, *, sync: bool = False) -> None:
        """Write the lines that wait; with ``sync`` have all on the disk. Raises OSError; none is lost then."""
        if not self._waiting and not sync:
            return
        with self.path.open("a+b", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                text = memoryview(b"\n" * _cut_short(file, end) + "".join(self._waiting).encode())
                while text:
                    text = text[file.write(text) :]
                if sync:
                    os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(end)  # half a line would spoil the next one
                raise
        self._waiting = []


def _cut_short(file: IO[bytes], end: int) -> bool:
    """Whether a kill left half a line at the end of a file."""
    if end == 0:
        return False
    file.seek(end - 1)
    return file.read(1) != b"\n"


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


class MetricsCSV:
    """One row every ``log_every`` steps and at each validation; columns without a value are empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = Lines(path)

    def open(self, step: int) -> None:
        """Start the file, or drop the rows after ``step``, which a resumed run writes again."""
        rows = [r for r in read_metrics(self.path) if int(r["step"]) <= step] if self.path.exists() else []
        lines = [",".join(COLUMNS), *(",".join(r.get(c) or "" for c in COLUMNS) for r in rows)]
        write_file(self.path, lambda file: file.write(("\n".join(lines) + "\n").encode()))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row. Floats are written with all their digits, so that equal runs have equal files.

        Raises OSError when the disk is full; the row is then written with the next one, or by `sync`.
        """
        self._lines.write(",".join(_text(row.get(name)) for name in COLUMNS))

    def sync(self) -> None:
        """Have all rows on the disk: none may be younger than a checkpoint."""
        self._lines.flush(sync=True)


def _text(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv as written; a last line that was cut short by a kill is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [r for r in rows if (r.get("step") or "").isdigit() and None not in r and None not in r.values()]


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
