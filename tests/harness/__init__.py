"""What stands in for machines that are not here: an emulator of a GPU, Triton's interpreter and compiler."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the checkout


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Only one process at a time makes `target`; who waited finds it made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
