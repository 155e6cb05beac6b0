"""``aminet evaluate``."""

from __future__ import annotations

from typing import Any

from .command import Command


def _options() -> type:
    from ..evaluate import EvaluateConfig

    return EvaluateConfig


def _run(config: Any) -> int:
    from ..evaluate import evaluate

    return evaluate(config)


COMMAND = Command("evaluate", "score weights against bicubic: PSNR, SSIM, VIF, LPIPS, FID", _options, _run)
