"""``aminet restore``."""

from __future__ import annotations

from typing import Any

from .command import Command
from .signals import run_until_terminated


def _options() -> type:
    from ..restoration import RestoreConfig

    return RestoreConfig


def _run(config: Any) -> int:
    from ..restoration import restore_files

    return run_until_terminated(lambda: restore_files(config))


COMMAND = Command(
    "restore",
    "enlarge photographs and restore the small faces in them",
    _options,
    _run,
    positional="inputs",
    positional_help="photographs, folders or globs",
    many=True,
    details="Restored faces are made up from a few pixels each. They are not for identifying people.",
)
