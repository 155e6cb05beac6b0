"""`aminet data DIR`: look a data set over before anything is trained on it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..output.console import make_console, print_table
from ..output.listing import first_few
from .config import DataConfig, DataError, Layout
from .decode import decode
from .faces import doubts
from .formats import in_words, readable
from .images import ImageError, has_frames
from .listing import Item, Listing
from .sources import list_faces


@dataclass
class CheckConfig:
    """Look a data set over: what was recognised, how many faces each split has, and which files are bad.

    Args:
        root: folder of pictures.
        layout: how the folder is laid out; auto looks.
        crop: side of the centre crop before the resize; None: the middle square.
        size: side of the HR face in pixels.
        scale: HR side / LR side.
        show: how many bad files and duplicates to name.
    """

    root: str
    layout: Layout = "auto"
    crop: int | None = None
    size: int = 128
    scale: int = 8
    show: int = 10


@dataclass
class Findings:
    """Counts over all files of a listing."""

    usable: int = 0
    enlarged: int = 0
    films: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    by_content: dict[str, list[str]] = field(default_factory=dict)

    @property
    def duplicates(self) -> list[list[str]]:
        return [names for names in self.by_content.values() if len(names) > 1]


def check(config: CheckConfig) -> int:
    """Print what `config.root` holds. Returns 0, or 1 when nothing usable is there."""
    console = make_console()
    data = DataConfig(config.root, config.layout, config.crop, config.size, config.scale, subset="official")
    try:
        listing = list_faces(data)
    except DataError as error:
        make_console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    findings = examine(listing, data, console)
    report(listing, findings, config, console)
    return 0 if findings.usable else 1


def examine(listing: Listing, data: DataConfig, console: Console) -> Findings:
    """Decode every picture once and count what is found."""
    findings = Findings()
    items = listing.splits["all"]
    for item, (usable, facts) in zip(items, _looks(items, data, console), strict=True):
        findings.usable += usable
        findings.enlarged += facts.get("enlarged") == "yes"
        findings.films += facts.get("frames") == "several"
        if "reason" in facts:
            findings.bad.append((item.name, facts["reason"]))
        if "size" in facts:
            findings.sizes[facts["size"]] += 1
            findings.modes[facts["mode"]] += 1
        if usable and "digest" in facts:
            findings.by_content.setdefault(facts["digest"], []).append(item.name)
    return findings


def _looks(items: list[Item], data: DataConfig, console: Console) -> Iterator[tuple[bool, dict[str, str]]]:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        starts, quiet = range(0, len(items), 64), not console.is_terminal
        for start in track(starts, "looking at the pictures", console=console, transient=True, disable=quiet):
            yield from pool.map(lambda item: _look(item, data), items[start : start + 64])


def _look(item: Item, data: DataConfig) -> tuple[bool, dict[str, str]]:
    facts: dict[str, str] = {}
    path = item.hr or item.lr
    try:
        pixels = decode(item, data)
    except ImageError as error:
        facts["reason"] = error.reason
    else:
        facts["enlarged"] = "yes" if pixels.enlarged else "no"
        facts["digest"] = hashlib.sha1(b"".join(p.tobytes() for p in pixels[:2] if p is not None)).hexdigest()
    facts |= _header(path) if path else {}
    return "reason" not in facts, facts


def _header(path: Path) -> dict[str, str]:
    try:
        with Image.open(path, formats=readable()) as image:
            frames = "several" if has_frames(image) else "one"
            return {"size": f"{image.width}x{image.height}", "mode": image.mode, "frames": frames}
    except Exception:  # a bad file: its reason is known from decoding
        return {}


def report(listing: Listing, findings: Findings, config: CheckConfig, console: Console) -> None:
    everything = len(listing.splits["all"])
    console.print(listing.where, style="italic", markup=False, highlight=False, soft_wrap=True)
    table = Table(show_header=False)
    table.add_row("layout", listing.layout)
    for split, items in listing.splits.items():
        table.add_row(f"split {split}", str(len(items)))
    table.add_row("usable", f"{findings.usable} of {everything}")
    small = "" if listing.layout == "scface" else f" (smaller than {config.size}x{config.size})"
    table.add_row("enlarged", f"{findings.enlarged}{small}")
    table.add_row("sizes", _common(findings.sizes))
    table.add_row("modes", _common(findings.modes))
    if findings.films:
        table.add_row("several frames", f"{findings.films} files, of which the first is taken")
    table.add_row("bad files", str(len(findings.bad)))
    table.add_row("same content", f"{sum(len(names) - 1 for names in findings.duplicates)} repeated")
    table.add_row("left out", in_words(listing.left_out) or "nothing")
    print_table(console, table)
    for note in (*listing.notes, *(f"warning: {doubt}" for doubt in doubts(listing))):
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    _list_some(console, "bad", [f"{name}: {reason}" for name, reason in findings.bad], config.show)
    _list_some(console, "same content", [" = ".join(names) for names in findings.duplicates], config.show)
    if not findings.usable:
        console.print(f"nothing usable: all {everything} files are bad", style="red", markup=False)


def _common(counts: Counter[str]) -> str:
    return first_few([f"{name} ({count})" for name, count in counts.most_common()])


def _list_some(console: Console, title: str, lines: list[str], show: int) -> None:
    if lines:
        console.print(f"{title}:", style="bold")
        for line in lines[:show]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > show:
            console.print(f"  and {len(lines) - show} more")
