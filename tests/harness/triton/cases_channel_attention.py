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
    """16-bit images with parameters in float32.

    At 18 columns the temperature's gradient would be 1/412 of its terms' magnitudes: nothing but their rounding.
    """
    return arguments(Draw(torch.float32, draw.device), 1, 24, 5, 17) | {"x": draw(1, 24, 5, 17)}


def packed(draw: Draw) -> Arguments:
    """With what channel_attention_prepack makes on a GPU; for float16 it is of no use."""
    made = autocast(draw)
    return made | {"packed": made["qkv_weight"].detach().to(torch.bfloat16)}


def sliced(draw: Draw) -> Arguments:
    return arguments(draw, 2, 6, 4, 5, 2) | {"x": draw(2, 9, 5, 5)[:, 1:7, 1:]}


def beside(draw: Draw) -> Arguments:
    """x without gaps, but at an address that no vector starts at."""
    memory = draw(2 * 24 * 15 + 1)[1:]
    return arguments(draw, 2, 24, 3, 5, 1) | {"x": memory.view(2, 3, 5, 24).permute(0, 3, 1, 2)}


HALF = (torch.bfloat16, torch.float16)
# In 16 bits u, q and k, v, M and y are rounded. Switched on one by one in float64, these put y at up to 1.25, 1.1, 1.0,
# 1.2 and 0.35 times its tolerance; together, as in the kernels, at up to 1.7, and at 1.2 the gradient of a temperature
# whose terms cancel. The reference in 16 bits is at up to 3.1 and 1.9. With M exact it would still be 1.7.
TOGETHER = 2.0
# Unbounded logits: q's and k's rounding alone is 2.2 times the tolerance, all of it 2.7; the reference 3.2.
BY_ROOT = 3.0


def cases(name: str, *sizes: int, loosen: float = TOGETHER, **options: bool) -> list[Case]:
    """sizes: N, C, H, W, heads; `loosen` in 16 bits."""
    made = partial(arguments, **dict(zip(("n", "c", "h", "w", "heads"), sizes, strict=True)), **options)
    return [
        Case("channel_attention", name, made, dtypes=(torch.float32,)),
        Case("channel_attention", f"{name}-16-bit", made, dtypes=HALF, loosen=loosen),
    ]


CASES = [
    # Two strips of pixels side by side, the second with one pixel.
    *cases("c24", 2, 24, 3, 17, 1),
    *cases("two-strips-down", 1, 6, 18, 3, 2),
    *cases("one-channel", 1, 1, 2, 3, 1, loosen=1.0),
    *cases("one-pixel", 1, 3, 1, 1, 1, loosen=1.0),
    *cases("row", 2, 3, 1, 37, 1, loosen=1.0),
    *cases("two-heads", 1, 48, 5, 7, 2),
    *cases("eight-heads", 1, 192, 2, 3, 8),
    *cases("three-heads-of-21", 1, 63, 4, 3, 3),
    # Heads wider than one tile.
    *cases("head-of-40", 2, 40, 3, 4, 1),
    *cases("head-of-80", 1, 80, 2, 3, 1),
    *cases("by-root", 2, 24, 4, 5, 1, loosen=BY_ROOT, normalised=False),
    *cases("by-root-heads", 1, 12, 9, 4, 4, loosen=1.0, normalised=False),
    # Several tiles down and across, the last ones with a part of their pixels; shares of more than one tile.
    *cases("37x21", 2, 24, 37, 21, 1),
    *cases("c48-37x21", 1, 48, 37, 21, 2),
    # Heads of other widths beside channels that come as vectors, and channels that do not.
    *cases("four-heads-of-6", 1, 24, 9, 18, 4),
    *cases("c72", 1, 72, 10, 3, 3),
    *cases("head-of-33", 1, 33, 9, 2, 1),
    Case("channel_attention", "beside-vectors", beside, dtypes=(torch.float32,)),
    Case("channel_attention", "beside-vectors-16-bit", beside, dtypes=HALF, loosen=TOGETHER),
    *cases("plain-layout", 2, 7, 5, 3, 1, plain=True),
    Case("channel_attention", "float32-parameters", autocast, dtypes=HALF, loosen=TOGETHER),
    Case("channel_attention", "packed", packed, dtypes=HALF, loosen=TOGETHER),
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
