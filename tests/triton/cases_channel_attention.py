"""Cases of channel_attention's Triton kernels."""

from __future__ import annotations

from functools import partial

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw


def arguments(
    draw: Draw, n: int, c: int, h: int, w: int, heads: int = 1, normalised: bool = True, plain: bool = False
) -> Arguments:
    return {
        "x": draw(n, c, h, w, contiguous=plain),
        "qkv_weight": draw(3 * c, c, 1, 1, fan_in=c),
        "dw_weight": draw(3 * c, 1, 3, 3, fan_in=9),
        "temperature": 2 * draw(heads, 1, 1) if normalised else None,
        "proj_weight": draw(c, c, 1, 1, fan_in=c),
        "heads": heads,
    }


def autocast(draw: Draw) -> Arguments:
    """16-bit images with parameters in float32."""
    return arguments(Draw(torch.float32, draw.device), 1, 24, 5, 18) | {"x": draw(1, 24, 5, 18)}


def sliced(draw: Draw) -> Arguments:
    return arguments(draw, 2, 6, 4, 5, 2) | {"x": draw(2, 9, 5, 5)[:, 1:7, 1:]}


# In 16 bits u, q, k, v and M are rounded to data's dtype on their way to the tensor cores, where the tolerances have
# room for the result's own rounding; with one pixel the gradients of q and k are 0, the difference of what was rounded.
HALF = {"dtypes": (torch.bfloat16, torch.float16), "loosen": 4.0}


def cases(name: str, *sizes: int, **options: bool) -> list[Case]:
    """sizes: N, C, H, W, heads."""
    made = partial(arguments, **dict(zip(("n", "c", "h", "w", "heads"), sizes, strict=True)), **options)
    return [
        Case("channel_attention", name, made, dtypes=(torch.float32,)),
        Case("channel_attention", f"{name}-16-bit", made, **HALF),
    ]


CASES = [
    # Two strips of pixels side by side, the second with one pixel.
    *cases("c24", 2, 24, 3, 17, 1),
    *cases("two-strips-down", 1, 6, 18, 3, 2),
    *cases("one-channel", 1, 1, 2, 3, 1),
    *cases("one-pixel", 1, 3, 1, 1, 1),
    *cases("row", 2, 3, 1, 37, 1),
    *cases("two-heads", 1, 48, 5, 7, 2),
    *cases("eight-heads", 1, 192, 2, 3, 8),
    *cases("three-heads-of-21", 1, 63, 4, 3, 3),
    # Heads wider than one tile.
    *cases("head-of-40", 2, 40, 3, 4, 1),
    *cases("head-of-80", 1, 80, 2, 3, 1),
    *cases("by-root", 2, 24, 4, 5, 1, normalised=False),
    *cases("by-root-heads", 1, 12, 9, 4, 4, normalised=False),
    *cases("plain-layout", 2, 7, 5, 3, 1, plain=True),
    Case("channel_attention", "float32-parameters", autocast, **HALF),
    Case("channel_attention", "sliced", sliced, gradient="expanded", dtypes=(torch.float32,)),
    *(
        Case(
            "channel_attention",
            f"{c}@{side}",
            partial(arguments, n=BATCH, c=c, h=side, w=side, heads=c // 24),
            network=True,
        )
        for c, side in NETWORK
    ),
]
