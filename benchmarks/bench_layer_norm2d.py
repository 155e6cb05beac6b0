"""layer_norm2d at the network's four sizes."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    return {"x": draw(n, c, side, side), "weight": draw(c), "bias": draw(c)}


CASES = (
    Case(
        "layer_norm2d",
        make,
        images={FORWARD: 2, BOTH: 5},  # x, y; then dy, x, dx
        macs=lambda c: 4 * c,
    ),
)
bench_layer_norm2d = operator_benchmark(*CASES)
