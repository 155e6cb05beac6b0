"""``aminet demo``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .command import Command


@dataclass
class DemoConfig:
    """Restores a photograph's faces with the weights of the package, then trains a narrow AMINet on drawn faces.

    Args:
        out: run folder, made anew.
        steps: training steps.
        minutes: train no longer than this.
    """

    out: str = "runs/demo"
    steps: int = 540
    minutes: float = 7.0


def _run(config: DemoConfig) -> int:
    from .demonstration import demonstrate

    return demonstrate(Path(config.out), config.steps, config.minutes)


COMMAND = Command("demo", "restore a photograph, train for some minutes, beat bicubic", lambda: DemoConfig, _run)
