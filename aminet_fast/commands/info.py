"""``aminet info``."""

from __future__ import annotations

from dataclasses import dataclass

from .command import Command


@dataclass
class InfoConfig:
    """What is installed, what was compiled, what serves each operator.

    Args:
        json: print one JSON object instead of a table.
    """

    json: bool = False


def _run(config: InfoConfig) -> int:
    from .installation import show

    return show(json=config.json)


COMMAND = Command("info", "print versions, devices, and what was compiled for what", lambda: InfoConfig, _run)
