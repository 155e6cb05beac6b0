"""Cases of batch_norm_affine's Triton kernels."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from .case import NETWORK, Arguments, Case, Draw


def arguments(draw: Draw, c: int, uses: int = 1, wide: bool = False) -> Arguments:
    """wide: moments in float32 beside parameters in the data's dtype, as batches have them."""
    moments: dict[str, Any] = {"dtype": torch.float32} if wide else {}
    return {
        "weight": draw(c) / 4 + 1,
        "bias": draw(c),
        "mean": draw(c, **moments),
        "var": draw(c, **moments).square() + 0.5,
        "uses": uses,
    }


def sliced(draw: Draw) -> Arguments:
    return {name: t[1::2] if isinstance(t, torch.Tensor) else t for name, t in arguments(draw, 10).items()}


CASES = [
    Case("batch_norm_affine", "c24-three-uses", partial(arguments, c=24, uses=3, wide=True)),
    Case("batch_norm_affine", "c1", partial(arguments, c=1)),
    Case("batch_norm_affine", "c300", partial(arguments, c=300, uses=2)),
    Case("batch_norm_affine", "sliced", sliced),
    *(Case("batch_norm_affine", f"{c}", partial(arguments, c=c, uses=3, wide=True), network=True) for c, _ in NETWORK),
]
