"""Long lists in messages: the first few entries, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FEW = 5


def first_few(entries: Sequence[Path | str], separator: str = ", ") -> str:
    """The first five, and how many more there are: "a, b, c, d, e and 3 more", or "a; b; c; d; e; and 3 more"."""
    before = " " if separator == ", " else separator
    more = f"{before}and {len(entries) - FEW} more" if len(entries) > FEW else ""
    return separator.join(str(entry) for entry in entries[:FEW]) + more
