"""Training: `TrainConfig` says what, `train` does it (``aminet train``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import GanConfig as GanConfig
    from .config import TrainConfig as TrainConfig
    from .run import train as train

__all__ = ["GanConfig", "TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    """Load what trains, and Accelerate with it, only when it is asked for: help need not wait for them."""
    if name == "train":
        from .run import train

        return train
    if name in ("GanConfig", "TrainConfig"):
        from . import config

        return getattr(config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
