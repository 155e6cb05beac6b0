"""The metrics that an evaluation asks for, by name, loaded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .fid import InceptionFeatures
from .lpips import Lpips
from .psnr import psnr
from .ssim import ssim
from .vif import torchmetrics_vif, vif, vifp

METRICS: tuple[str, ...] = ("psnr", "ssim", "vif", "vifp", "lpips", "fid")

# (sr, hr, protocol) -> [N] float64
Metric = Callable[[Tensor, Tensor, str], Tensor]
_PLAIN: dict[str, Metric] = {"psnr": psnr, "ssim": ssim, "vif": vif, "vifp": vifp}


@dataclass(frozen=True)
class MetricSet:
    """Metrics in the order asked for.

    `per_picture` scores each picture; `inception`, where "fid" is among the names, gives the features that a whole
    set is scored by; `weights` says which files the networks behind them came from.
    """

    names: tuple[str, ...]
    per_picture: Mapping[str, Metric]
    inception: InceptionFeatures | None = None
    weights: Mapping[str, Any] = field(default_factory=dict)


def load_metrics(
    names: str | Sequence[str] = ("psnr", "ssim"),
    *,
    device: str | torch.device = "cpu",
    lpips_weights: str | Path | None = None,
    inception_weights: str | Path | None = None,
) -> MetricSet:
    """Metrics by name, with the networks that LPIPS and FID need on `device`.

    Args:
        names: of ``METRICS``, as a sequence or joined by commas.
        device: where the networks run.
        lpips_weights: file of AlexNet's weights; see :class:`Lpips`.
        inception_weights: file of Inception's weights; see :class:`InceptionFeatures`.

    Raises:
        ImportError: lpips, torchmetrics (VIF-P) or torch-fidelity is needed and not installed.
        FileNotFoundError: weights are needed and not on this disk.
        ValueError: a name is unknown or given twice, none is given, or a file holds something else.
    """
    chosen = check_metrics(names)
    per_picture = {name: _PLAIN[name] for name in chosen if name in _PLAIN}
    if "vifp" in chosen:
        torchmetrics_vif()  # a missing package is told before any picture is scored
    weights: dict[str, Any] = {}
    if "lpips" in chosen:
        per_picture["lpips"] = lpips = Lpips(lpips_weights, device)
        weights["lpips"] = lpips.weights
    inception = None
    if "fid" in chosen:
        inception = InceptionFeatures(inception_weights, device)
        weights["fid"] = inception.weights
    in_order = {name: per_picture[name] for name in chosen if name in per_picture}
    return MetricSet(chosen, in_order, inception, weights)


def check_metrics(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; raises ValueError for none, an unknown one, or one that is given twice."""
    items = names.split(",") if isinstance(names, str) else names
    chosen = tuple(item.strip() for item in items)
    for name in chosen:
        if name not in METRICS:
            raise ValueError(f"unknown metric {name!r}; choose of {', '.join(METRICS)}, joined by commas")
        if chosen.count(name) > 1:
            raise ValueError(f"metric {name!r} is given twice")
    if not chosen:
        raise ValueError(f"no metric is given; choose of {', '.join(METRICS)}")
    return chosen
