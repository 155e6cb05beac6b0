"""``aminet plot``."""

from __future__ import annotations

from typing import Any

from .command import Command


def _options() -> type:
    from ..training.curves import PlotConfig

    return PlotConfig


def _run(config: Any) -> int:
    from ..training.curves import plot

    return plot(config)


COMMAND = Command(
    "plot",
    "draw runs' loss and PSNR",
    _options,
    _run,
    positional="runs",
    positional_help="run folders, or metrics.csv files",
    many=True,
)
