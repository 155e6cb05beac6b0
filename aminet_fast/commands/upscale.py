"""``aminet upscale``."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from .command import Command


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends the work as Ctrl-C does: unfinished files are removed, and how to go on is said."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python takes no signals there
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _options() -> type:
    from ..restoration import UpscaleConfig

    return UpscaleConfig


def _run(config: Any) -> int:
    from ..restoration import upscale

    try:
        with _sigterm_interrupts():
            return upscale(config)
    except _Terminated:
        print("aminet: terminated", file=sys.stderr)
        return 128 + signal.SIGTERM


COMMAND = Command(
    "upscale",
    "super-resolve pictures of faces, x8 or as the weights say",
    _options,
    _run,
    positional="inputs",
    positional_help="pictures, folders or globs",
    many=True,
)
