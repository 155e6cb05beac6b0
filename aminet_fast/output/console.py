"""Where lines for people go: a terminal has a width, a file or a pipe has none."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

_WHOLE = 100_000  # columns; no line of ours is longer


def make_console(*, stderr: bool = False) -> Console:
    """A console of the terminal's width; in files and pipes lines stay whole, whatever COLUMNS says."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_WHOLE)


def print_table(console: Console, table: Table) -> None:
    """Prints a table; in files and pipes as wide as its contents, and no line ends in spaces."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        console.print(line.rstrip(), markup=False, highlight=False, emoji=False, soft_wrap=True)
