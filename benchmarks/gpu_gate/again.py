"""What ended a process: the section is begun again in another one, without it."""

from __future__ import annotations

from collections.abc import Iterable

from .run import Row

ENDS = ("broken", "died", "timed out")  # of a section, after which its process is of no more use
MOST = 3  # times that a section is begun


def tried(rows: Iterable[Row], section: str) -> frozenset[str]:
    """All items that the section has begun."""
    return frozenset(row["item"] for row in rows if row["row"] == "trying" and row["section"] == section)


def culprits(rows: Iterable[Row], section: str) -> frozenset[str]:
    """The items that were the last ones when a process ended."""
    found, last = set(), ""
    for row in rows:
        if row["row"] == "trying" and row["section"] == section:
            last = row["item"]
        elif row["row"] in ("begin", "end") and row["name"] == section:
            if row["row"] == "end" and row["status"] in ENDS and last:
                found.add(last)
            last = ""
    return frozenset(found)


def begins_again(rows: list[Row], section: str) -> bool:
    """Whether it ended a process, and each time by another item that can be left out."""
    ends = [row["status"] for row in rows if row["row"] == "end" and row["name"] == section]
    return bool(ends) and ends[-1] in ENDS and len(ends) < MOST and len(culprits(rows, section)) == len(ends)
