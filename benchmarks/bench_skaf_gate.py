"""skaf_gate at the network's four sizes; EDFF uses it too."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    parameters = {"weight": draw(2, 2, 7, 7, fan_in=98), "bias": draw(2)}
    return {"m": draw(n, 2, side, side), **parameters} | {
        name: draw(n, c, side, side) for name in ("g", "local", "residual")
    }


CASES = (
    Case(
        "skaf_gate",
        make,
        images={FORWARD: 4, BOTH: 9},  # g, local, residual, y; then dy, g, local, dg, dlocal
        macs=lambda c: 2 * 2 * 49 + 2 * c,
    ),
)
bench_skaf_gate = operator_benchmark(*CASES)
