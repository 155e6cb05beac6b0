"""metrics.csv: the numbers of a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from .folder import Lines, write_file

COLUMNS = (
    "step", "epoch", "images", "seconds", "lr", "loss", "images_per_s",
    "val_psnr", "val_ssim", "val_bicubic_psnr", "val_bicubic_ssim",
    "pixel", "perceptual", "adversarial", "discriminator",
)  # fmt: skip


class MetricsCSV:
    """One row every ``log_every`` steps and at each validation; columns without a value are empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = Lines(path)

    def open(self, step: int) -> None:
        """Start the file, or drop the rows after ``step``, which a resumed run writes again."""
        rows = [r for r in read_metrics(self.path) if int(r["step"]) <= step] if self.path.exists() else []
        lines = [",".join(COLUMNS), *(",".join(r.get(c) or "" for c in COLUMNS) for r in rows)]
        write_file(self.path, lambda file: file.write(("\n".join(lines) + "\n").encode()))

    def write(self, row: dict[str, Any]) -> None:
        """Append a row. Floats are written with all their digits, so that equal runs have equal files.

        Raises OSError when the disk is full; the row is then written with the next one, or by `sync`.
        """
        self._lines.write(",".join(_text(row.get(name)) for name in COLUMNS))

    def sync(self) -> None:
        """Have all rows on the disk: none may be younger than a checkpoint."""
        self._lines.flush(sync=True)


def _text(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv as written; a last line that was cut short by a kill is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [r for r in rows if (r.get("step") or "").isdigit() and None not in r and None not in r.values()]
