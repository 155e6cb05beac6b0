"""channel_attention at the network's four sizes, with 24 channels a head as the network has them."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark

PER_HEAD = 24


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    heads = c // PER_HEAD
    return {
        "x": draw(n, c, side, side),
        "qkv_weight": draw(3 * c, c, 1, 1, fan_in=c),
        "dw_weight": draw(3 * c, 1, 3, 3, fan_in=9),
        "temperature": 1 + 0.1 * draw(heads, 1, 1),
        "proj_weight": draw(c, c, 1, 1, fan_in=c),
        "heads": heads,
    }


CASES = (
    Case(
        "channel_attention",
        make,
        images={FORWARD: 2, BOTH: 5},  # x, y; then dy, x, dx
        macs=lambda c: 3 * c * c + 27 * c + 2 * c * PER_HEAD + c * c,
    ),
)
bench_channel_attention = operator_benchmark(*CASES)
