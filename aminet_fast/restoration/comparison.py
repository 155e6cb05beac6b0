"""The before-and-after picture of ``aminet upscale`` and ``aminet restore``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..data import to_tensor
from ..data.degradation import enlarge
from ..metrics.panel import FORMATS, save_panel
from .account import StopError, reason_of
from .plan import Job

_ROWS, _SIDE = 8, 512


def check_panel(path: str, *, force: bool) -> None:
    """Raises ValueError when a panel cannot be written to `path`, or exists and `force` is off."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"panel {path}: use one of {', '.join(FORMATS)}")
    if Path(path).exists() and not force:
        raise ValueError(f"panel {path} exists already; pass --force to overwrite it")


def refuse_clash(path: str, jobs: Sequence[Job]) -> None:
    """Raises ValueError when the panel would replace one of the pictures, or a result."""
    panel = Path(path).resolve()
    for job in jobs:
        if panel in (job.source.resolve(), job.target.resolve()):
            what = "an input" if panel == job.source.resolve() else "a result"
            raise ValueError(f"panel {path} would overwrite {what}; choose another --panel")


class Rows:
    """The first eight rows of a panel, whenever each of them comes; shrunk to 512 pixels where they are larger.

    A row's place is anything that sorts; every row has another.
    """

    def __init__(self) -> None:
        self._rows: dict[Any, tuple[str, dict[str, Image.Image]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def has_room(self, place: Any) -> bool:
        """Whether a row of that place is among the first eight of those that came."""
        return len(self._rows) < _ROWS or place < max(self._rows)

    def put(self, place: Any, name: str, columns: dict[str, Image.Image]) -> None:
        """Takes a row of RGB pictures, which are shrunk in place, if it is among the first eight."""
        if not self.has_room(place):
            return
        for image in columns.values():
            image.thumbnail((_SIDE, _SIDE))
        self._rows[place] = (name, columns)
        if len(self._rows) > _ROWS:
            del self._rows[max(self._rows)]

    def save(self, path: str) -> None:
        """Writes the panel of one row or more. Raises OSError when it cannot be written."""
        names, rows = zip(*(self._rows[place] for place in sorted(self._rows)), strict=True)
        width = max(row["LR"].width for row in rows)
        height = max(row["LR"].height for row in rows)
        columns = {
            label: torch.stack([to_tensor(_centred(row.get(label), width, height)) for row in rows])
            for label in max(rows, key=len)
        }
        save_panel(path, columns, names=names)


class PanelRows(Rows):
    """A row for each of the first eight pictures of a list.

    Args:
        jobs: the list, in the order of the rows; one that never comes makes room for the next.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        super().__init__()
        self._order = {job: place for place, job in enumerate(jobs)}

    def wants(self, job: Job) -> bool:
        """Whether the picture is among the first eight of those that came."""
        return self.has_room(self._order[job])

    def add(self, job: Job, lr: Image.Image, result: Image.Image, original: Image.Image | None) -> None:
        """Takes one picture: LR, its enlargement by the network, and the original where there is one."""
        if not self.wants(job):
            return
        rgb = lr.convert("RGB")
        columns = three(rgb, enlarge(rgb, result.width // rgb.width), result.convert("RGB"))
        if original is not None:
            columns["HR"] = original.resize(result.size, Image.Resampling.BICUBIC)
        self.put(self._order[job], job.source.name, columns)


def three(lr: Image.Image, bicubic: Image.Image, result: Image.Image) -> dict[str, Image.Image]:
    """What every row shows: LR as pixels, by bicubic, by the network. RGB; the row owns its pictures."""
    return {"LR": lr.resize(result.size, Image.Resampling.NEAREST), "bicubic": bicubic.copy(), "AMINet": result.copy()}


def save_rows(rows: Rows, path: str, *, none: str) -> str:
    """Writes the panel where there is a row, and returns what is to be said of it.

    Raises:
        StopError: it cannot be written.
    """
    if not len(rows):
        return f"no panel {path}: {none}"
    try:
        rows.save(path)
    except OSError as error:
        raise StopError(f"cannot write the panel {path}: {reason_of(error)}") from error
    return f"side by side: {path}"


def _centred(image: Image.Image | None, width: int, height: int) -> Image.Image:
    """A small picture, or none, on white, so that pictures of several sizes fit one grid."""
    cell = Image.new("RGB", (width, height), "white")
    if image is not None:
        cell.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return cell
