"""``aminet train``."""

from __future__ import annotations

from typing import Any

from .command import Command


def _options() -> type:
    from ..training import TrainConfig

    return TrainConfig


def _run(config: Any) -> int:
    from ..training import train

    return train(config)


COMMAND = Command("train", "train AMINet on faces", _options, _run)
