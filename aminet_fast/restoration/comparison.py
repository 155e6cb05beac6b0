"""The before-and-after picture of ``aminet upscale``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from ..data import to_tensor
from ..data.degradation import enlarge
from ..metrics.panel import FORMATS, save_panel
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


class PanelRows:
    """The first eight pictures of a list, whenever each of them comes; shrunk to 512 pixels where they are larger.

    Args:
        jobs: the list, in the order of the rows; one that never comes makes room for the next.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._order = {job: place for place, job in enumerate(jobs)}
        self._rows: dict[int, tuple[str, dict[str, Image.Image]]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def wants(self, job: Job) -> bool:
        """Whether the picture is among the first eight of those that came."""
        return len(self._rows) < _ROWS or self._order[job] < max(self._rows)

    def add(self, job: Job, lr: Image.Image, result: Image.Image, original: Image.Image | None) -> None:
        """Takes one picture: LR, its enlargement by the network, and the original where there is one."""
        if not self.wants(job):
            return
        rgb = lr.convert("RGB")
        columns = {
            "LR": rgb.resize(result.size, Image.Resampling.NEAREST),
            "bicubic": enlarge(rgb, result.width // rgb.width),
            "AMINet": result.convert("RGB"),
        }
        if original is not None:
            columns["HR"] = original.resize(result.size, Image.Resampling.BICUBIC)
        for image in columns.values():
            image.thumbnail((_SIDE, _SIDE))
        self._rows[self._order[job]] = (job.source.name, columns)
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


def _centred(image: Image.Image | None, width: int, height: int) -> Image.Image:
    """A small picture, or none, on white, so that pictures of several sizes fit one grid."""
    cell = Image.new("RGB", (width, height), "white")
    if image is not None:
        cell.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return cell
