"""Cases of layer_norm2d's Triton kernels."""

from __future__ import annotations

from functools import partial

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw


def arguments(draw: Draw, n: int, c: int, h: int, w: int) -> Arguments:
    return {"x": draw(n, c, h, w) + 0.3, "weight": draw(c), "bias": draw(c)}


def autocast(draw: Draw) -> Arguments:
    """16-bit images with parameters in float32."""
    parameters = {name: draw(24, dtype=torch.float32) for name in ("weight", "bias")}
    return {"x": draw(1, 24, 5, 3)} | parameters


def plain(draw: Draw) -> Arguments:
    return {"x": draw(2, 7, 5, 3, contiguous=True), "weight": draw(7), "bias": draw(7), "eps": 1e-3}


def sliced(draw: Draw) -> Arguments:
    return {"x": draw(2, 9, 4, 5)[:, 1:7, 1:], "weight": draw(12)[::2], "bias": draw(6)}


CASES = [
    # 150 pixels: three tiles of 64 rows, the last one not full.
    Case("layer_norm2d", "c24", partial(arguments, n=2, c=24, h=5, w=15)),
    Case("layer_norm2d", "c1", partial(arguments, n=2, c=1, h=3, w=2)),
    Case("layer_norm2d", "c3", partial(arguments, n=1, c=3, h=4, w=5)),
    Case("layer_norm2d", "c192", partial(arguments, n=1, c=192, h=5, w=3)),
    Case("layer_norm2d", "one-pixel", partial(arguments, n=1, c=48, h=1, w=1)),
    # By torch's own layer norm, so that there is nothing to compile.
    Case("layer_norm2d", "wide", partial(arguments, n=1, c=2100, h=1, w=2), compile=False),
    Case("layer_norm2d", "wide-tile", partial(arguments, n=1, c=1500, h=1, w=3)),
    Case("layer_norm2d", "float32-parameters", autocast),
    Case("layer_norm2d", "plain-layout", plain, gradient="contiguous"),
    Case("layer_norm2d", "sliced", sliced, gradient="expanded"),
    *(
        Case("layer_norm2d", f"{c}@{side}", partial(arguments, n=BATCH, c=c, h=side, w=side), network=True)
        for c, side in NETWORK
    ),
]
