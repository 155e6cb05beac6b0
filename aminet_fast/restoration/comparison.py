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
    """The first eight pictures of a run, shrunk to 512 pixels where they are larger."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._rows: list[dict[str, Image.Image]] = []

    def add(self, name: str, lr: Image.Image, result: Image.Image, original: Image.Image | None) -> None:
        """Takes one picture: LR, its enlargement by the network, and the original where there is one."""
        if len(self._rows) == _ROWS:
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
        self._names.append(name)
        self._rows.append(columns)

    def save(self, path: str) -> None:
        """Writes the panel; does nothing when no picture came. Raises OSError when it cannot be written."""
        if not self._rows:
            return
        width = max(row["LR"].width for row in self._rows)
        height = max(row["LR"].height for row in self._rows)
        columns = {
            label: torch.stack([to_tensor(_centred(row.get(label), width, height)) for row in self._rows])
            for label in max(self._rows, key=len)
        }
        save_panel(path, columns, names=self._names)


def _centred(image: Image.Image | None, width: int, height: int) -> Image.Image:
    """A small picture, or none, on white, so that pictures of several sizes fit one grid."""
    cell = Image.new("RGB", (width, height), "white")
    if image is not None:
        cell.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return cell
