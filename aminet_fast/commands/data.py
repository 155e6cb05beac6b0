"""``aminet data``."""

from __future__ import annotations

from typing import Any

from .command import Command


def _options() -> type:
    from ..data.check import CheckConfig

    return CheckConfig


def _run(config: Any) -> int:
    from ..data.check import check

    return check(config)


COMMAND = Command(
    "data",
    "check a folder of faces and say what is in it",
    _options,
    _run,
    positional="root",
    positional_help="folder of faces",
)
