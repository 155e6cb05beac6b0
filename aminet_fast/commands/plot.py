"""``aminet plot``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .command import Command


@dataclass
class PlotConfig:
    """Draw runs' loss and validation PSNR over their steps.

    Args:
        runs: Run folders, or metrics.csv files.
        out: Picture to write (.png, .svg, .pdf). Without it, plot.png in the run folder; with several runs, here.
        smooth: Rows over which the loss is averaged; the plain curve stays visible behind it.
    """

    runs: list[str]
    out: str | None = None
    smooth: int = 1

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("no run to plot; name run folders")
        if self.smooth < 1:
            raise ValueError(f"smooth is {self.smooth}; it must be at least 1")


def plot(config: PlotConfig) -> int:
    """Write the figure and print where it is; raises as `draw_curves` does."""
    from ..training.curves import draw_curves

    out = Path(config.out) if config.out else None
    print(draw_curves([Path(run) for run in config.runs], out, config.smooth))
    return 0


COMMAND = Command(
    "plot",
    "draw runs' loss and PSNR",
    lambda: PlotConfig,
    plot,
    positional="runs",
    positional_help="run folders, or metrics.csv files",
    many=True,
)
