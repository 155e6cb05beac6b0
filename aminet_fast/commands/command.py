"""What a subcommand of ``aminet`` is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Command:
    """A subcommand: a dataclass of options, and what is done with one.

    `options` and `run` import what they need when they are called, so that ``aminet --help`` loads none of it.
    """

    name: str
    summary: str
    options: Callable[[], type]  # the dataclass; the docstring's Args are the options' help
    run: Callable[[Any], int | None]  # its result is the exit status, None for 0
    positional: str | None = None  # the option that is given without its name
    positional_help: str = ""
    many: bool = False  # it takes one or more
    details: str = ""  # what its help says after the summary

    @property
    def arguments(self) -> str:
        """What follows the command's name in its usage."""
        if self.positional is None:
            return "[options]"
        name = self.positional.upper()
        return f"{name} [{name} ...] [options]" if self.many else f"{name} [options]"
