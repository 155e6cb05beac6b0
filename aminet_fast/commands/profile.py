"""``aminet profile``."""

from __future__ import annotations

from typing import Any

from .command import Command


def _options() -> type:
    from ..profiling.profile import ProfileConfig

    return ProfileConfig


def _run(config: Any) -> int:
    from ..profiling.profile import profile

    return profile(config)


COMMAND = Command("profile", "say what bounds a training step", _options, _run)
