"""What a run says: lines on the terminal and in log.txt, rows of metrics.csv, TensorBoard events."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from .folder import write_file

COLUMNS = (
    "step", "epoch", "images", "seconds", "lr", "loss", "images_per_s",
    "val_psnr", "val_ssim", "val_bicubic_psnr", "val_bicubic_ssim",
)  # fmt: skip


class RunLog:
    """Lines for people. ``say`` also appends to the log file; ``progress`` draws a bar on a terminal and a line elsewhere.

    On processes other than the main one everything is silent. ``file`` is set once the run folder is known to be good.
    """

    def __init__(self, main: bool) -> None:
        self.main = main
        self.file: Path | None = None
        self.console = Console(quiet=not main, soft_wrap=True, highlight=False)
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def start(self, step: int, total: int) -> None:
        """Show the bar, when standard output is a terminal."""
        if self.console.is_terminal and self.main:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), console=self.console, transient=True
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
        self.console.print(escape(text), style=style)
        self.note(text)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}", style="yellow")

    def note(self, text: str) -> None:
        """One line in log.txt alone."""
        if self.file is None:
            return
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        except OSError as error:  # a full disk must not end the training
            self.console.print(escape(f"warning: cannot write {self.file}: {error.strerror}"), style="yellow")

    def progress(self, step: int, text: str, *, row: bool) -> None:
        """Move the bar at every step; write ``text`` as a line when ``row`` says that a row of the CSV is due."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, description=escape(text))
            if row:
                self.note(text)
        elif row:
            self.say(text)


class MetricsCSV:
    """metrics.csv: one row every ``log_every`` steps and at each validation; columns without a value are empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, step: int) -> None:
        """Start the file, or drop rows after ``step``: a resumed run writes them again, and none may be there twice."""
        rows = [r for r in read_metrics(self.path) if int(r["step"]) <= step] if self.path.exists() else []
        lines = [",".join(COLUMNS), *(",".join(r.get(c) or "" for c in COLUMNS) for r in rows)]
        write_file(self.path, lambda file: file.write(("\n".join(lines) + "\n").encode()))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row. Floats are written with all their digits, so that equal runs have equal files."""
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow([_text(row.get(name)) for name in COLUMNS])


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


def open_tensorboard(folder: Path) -> Any:
    """A SummaryWriter; raises ImportError naming the extra that brings it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("--tensorboard needs TensorBoard: pip install 'aminet_fast[tracking]'") from error
    return SummaryWriter(str(folder))
