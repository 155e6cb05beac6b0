"""norm_act_conv at the network's four sizes: FRM's convolutions, which keep size and channels, with their moments."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    return {
        "x": draw(n, c, side, side),
        "scale": 1 + 0.1 * draw(c),
        "shift": draw(c),
        "weight": draw(c, c, 3, 3, fan_in=9 * c),
        "slope": 0.2,
        "stride": 1,
        "padding": "zeros",
        "upsample": False,
    }


CASES = (
    Case(
        "norm_act_conv",
        make,
        images={FORWARD: 2, BOTH: 5},  # x, y; then dy, x, dx
        macs=lambda c: 9 * c * c + 3 * c,
    ),
)
bench_norm_act_conv = operator_benchmark(*CASES)
