"""The loss and the PSNR of one or several runs over their steps, drawn from their metrics.csv."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..output.atomic import atomic_write
from ..output.extras import missing
from .runs.logs import read_metrics


def draw_curves(runs: Sequence[Path], out: Path | None = None, smooth: int = 1) -> Path:
    """Draw the runs' loss and validation PSNR into one picture, and return its path.

    Args:
        runs: Run folders, or metrics.csv files.
        out: Picture to write; None: plot.png in the run folder, with several runs in the working directory.
        smooth: Rows over which the loss is averaged.

    Raises:
        ImportError: matplotlib is not there; the message names the extra.
        FileNotFoundError: a run has no metrics.csv.
        ValueError: it has no rows yet, or matplotlib cannot write a picture of that name.
    """
    files = [_metrics_file(run) for run in runs]
    curves = {_label(file, files): _columns(file) for file in files}
    if out is None:
        out = (files[0].parent if len(files) == 1 else Path()) / "plot.png"
    if out.is_dir():
        raise ValueError(f"{out} is a folder; name the picture, as --out {out / 'plot.png'}")
    _draw(curves, out, smooth)
    return out


def _metrics_file(run: Path) -> Path:
    file = run / "metrics.csv" if run.is_dir() else run
    if not file.is_file():
        raise FileNotFoundError(f"no run at {run}: wanted a run folder with its metrics.csv, or that file")
    return file


def _label(file: Path, files: list[Path]) -> str:
    """The run folder's name, or its path where two have the same name."""
    names = [f.resolve().parent.name for f in files]
    name = file.resolve().parent.name
    return name if names.count(name) == 1 else str(file.parent)


def _columns(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Column -> (step, value) of the rows that have one."""
    rows = read_metrics(file)
    if not rows:
        raise ValueError(f"{file} has no rows yet; the first is written after log_every steps")
    names = ("loss", "val_psnr", "val_bicubic_psnr")
    return {n: [(int(r["step"]), float(r[n])) for r in rows if r.get(n)] for n in names}


def _draw(curves: dict[str, dict[str, list[tuple[int, float]]]], out: Path, smooth: int) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing("plot", "plots need matplotlib") from error
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, (label, columns) in enumerate(curves.items()):
        colour = f"C{number}"
        _line(left, columns["loss"], colour, label, smooth)
        _line(right, columns["val_psnr"], colour, label, 1, marker="o")
        if columns["val_bicubic_psnr"]:
            level = columns["val_bicubic_psnr"][-1][1]
            right.axhline(level, color=colour, linestyle="--", label=f"bicubic ({label}): {level:.2f} dB")
    left.set(xlabel="step", ylabel="loss", title="training loss")
    right.set(xlabel="step", ylabel="PSNR (dB)", title="validation PSNR, protocol fsr")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    with atomic_write(out) as file:
        figure.savefig(file, format=out.suffix.lstrip(".") or "png", dpi=120)


def _line(
    axes: Any,
    points: list[tuple[int, float]],
    colour: str,
    label: str,
    smooth: int,
    marker: str | None = None,
) -> None:
    if not points:
        return
    steps, values = zip(*points, strict=True)
    if smooth > 1:
        axes.plot(steps, values, color=colour, alpha=0.25)
        values = tuple(_mean(values[max(0, i + 1 - smooth) : i + 1]) for i in range(len(values)))
    axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=3)


def _mean(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)
