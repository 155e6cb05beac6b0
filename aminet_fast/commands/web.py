"""``aminet web``."""

from __future__ import annotations

from typing import Any

from .command import Command
from .signals import run_until_terminated


def _options() -> type:
    from ..web.server import WebConfig

    return WebConfig


def _run(config: Any) -> int:
    from ..web.server import serve

    return run_until_terminated(lambda: serve(config))


COMMAND = Command("web", "a page in the browser that restores a photograph's faces", _options, _run)
