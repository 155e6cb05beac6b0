"""hourglass_gate at the network's four sizes, with the hourglass's 64 channels."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark

WIDTH = 64


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    arguments: Arguments = {"z": draw(n, c, side, side), "x": draw(n, c, side, side)}
    arguments |= {"x_scale": 1 + 0.1 * draw(c), "x_shift": draw(c)}
    for name in ("a", "b"):
        arguments[name] = draw(n, WIDTH, side, side)
        arguments |= {f"{name}_scale": 1 + 0.1 * draw(WIDTH), f"{name}_shift": draw(WIDTH)}
    return arguments | {"weight": draw(1, WIDTH, 3, 3, fan_in=9 * WIDTH), "bias": draw(1)}


CASES = (
    Case(
        "hourglass_gate",
        make,
        # z, x, y and a, b; then dy, x, dx and a, b, da, db (dz is dy itself)
        images={FORWARD: lambda c: 3 + 2 * WIDTH / c, BOTH: lambda c: 6 + 6 * WIDTH / c},
        macs=lambda c: 9 * WIDTH + 3 * WIDTH + 2 * c,
    ),
)
bench_hourglass_gate = operator_benchmark(*CASES)
