"""``aminet upscale``."""

from __future__ import annotations

from typing import Any

from .command import Command
from .signals import run_until_terminated


def _options() -> type:
    from ..restoration import UpscaleConfig

    return UpscaleConfig


def _run(config: Any) -> int:
    from ..restoration import upscale

    return run_until_terminated(lambda: upscale(config))


COMMAND = Command(
    "upscale",
    "super-resolve pictures of faces, x8 or as the weights say",
    _options,
    _run,
    positional="inputs",
    positional_help="pictures, folders or globs",
    many=True,
)
