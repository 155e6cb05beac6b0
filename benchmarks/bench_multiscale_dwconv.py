"""multiscale_dwconv at the network's four sizes: both calls of RDFE, one input for all branches and one each."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark

KERNELS = (3, 5, 7)


def one_input(draw: Draw, n: int, c: int, side: int) -> Arguments:
    weights, biases = draw.convolutions(c, 1, KERNELS)
    return {"x": draw(n, c, side, side), "weights": weights, "biases": biases, "scale": None}


def branches(draw: Draw, n: int, c: int, side: int) -> Arguments:
    return one_input(draw, n, c, side) | {
        "x": [draw(n, c, side, side) for _ in KERNELS],
        "scale": draw(n, c, 1, 1).sigmoid(),
    }


CASES = (
    Case(
        "multiscale_dwconv",
        one_input,
        images={FORWARD: 4, BOTH: 9},  # x, three f; then three df, x, dx
        macs=lambda c: sum(k * k for k in KERNELS) * c,
    ),
    Case(
        "multiscale_dwconv_branches",
        branches,
        images={FORWARD: 6, BOTH: 15},  # three x, three f; then three each of df, x, dx
        macs=lambda c: sum(k * k + 1 for k in KERNELS) * c,
        operator="multiscale_dwconv",
    ),
)
bench_multiscale_dwconv = operator_benchmark(*CASES)
