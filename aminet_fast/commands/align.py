"""``aminet align``."""

from __future__ import annotations

from typing import Any

from .command import Command
from .signals import run_until_terminated


def _options() -> type:
    from ..restoration import AlignConfig

    return AlignConfig


def _run(config: Any) -> int:
    from ..restoration import align_files

    return run_until_terminated(lambda: align_files(config))


COMMAND = Command(
    "align",
    "cut the faces out of photographs, to train on them",
    _options,
    _run,
    positional="inputs",
    positional_help="photographs, folders or globs",
    many=True,
)
