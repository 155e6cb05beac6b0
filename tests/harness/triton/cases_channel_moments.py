"""Cases of channel_moments' Triton kernels."""

from __future__ import annotations

from functools import partial

from .case import BATCH, NETWORK, Arguments, Case, Draw


def arguments(draw: Draw, n: int, c: int, h: int, w: int) -> Arguments:
    return {"x": draw(n, c, h, w) + 0.3}


def offset(draw: Draw) -> Arguments:
    """A variance that is lost when squares are summed as they are."""
    return {"x": draw(2, 5, 30, 15) / 8 + 30}


def plain(draw: Draw) -> Arguments:
    return {"x": draw(2, 7, 5, 3, contiguous=True)}


def sliced(draw: Draw) -> Arguments:
    return {"x": draw(2, 9, 4, 5)[:, 1:7, 1:]}


CASES = [
    # 150 pixels: three programs, the last one not full.
    Case("channel_moments", "c24", partial(arguments, n=2, c=24, h=5, w=15)),
    Case("channel_moments", "c1", partial(arguments, n=2, c=1, h=3, w=2)),
    Case("channel_moments", "c3", partial(arguments, n=1, c=3, h=4, w=5)),
    Case("channel_moments", "c300", partial(arguments, n=1, c=300, h=5, w=3)),
    Case("channel_moments", "one-pixel", partial(arguments, n=1, c=48, h=1, w=1)),
    Case("channel_moments", "offset", offset),
    Case("channel_moments", "plain-layout", plain),
    Case("channel_moments", "sliced", sliced, gradient="expanded"),
    *(
        Case("channel_moments", f"{c}@{side}", partial(arguments, n=BATCH, c=c, h=side, w=side), network=True)
        for c, side in NETWORK
    ),
]
