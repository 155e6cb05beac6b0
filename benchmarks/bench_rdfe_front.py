"""rdfe_front (depthwise, attention unit, depthwise, 1x1, + y) at the network's four sizes."""

from __future__ import annotations

from .cases import BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark

KERNELS = (3, 5, 7)


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    hidden, all_channels = max(c // 4, 1), len(KERNELS) * c
    first, second = draw.convolutions(c, 1, KERNELS), draw.convolutions(c, 1, KERNELS)
    return {
        "y": draw(n, c, side, side),
        "dw1_weights": first[0],
        "dw1_biases": first[1],
        "reduce_weight": draw(hidden, all_channels, 1, 1, fan_in=all_channels),
        "reduce_bias": draw(hidden),
        "expand_weight": draw(c, hidden, 1, 1, fan_in=hidden),
        "expand_bias": draw(c),
        "dw2_weights": second[0],
        "dw2_biases": second[1],
        "fuse_weight": draw(c, all_channels, 1, 1, fan_in=all_channels),
        "fuse_bias": draw(c),
    }


CASES = (
    Case(
        "rdfe_front",
        make,
        images={FORWARD: 2, BOTH: 5},  # y, z; then dz, y, dy
        macs=lambda c: 2 * sum(k * k for k in KERNELS) * c + len(KERNELS) * (c * c + c),
    ),
)
bench_rdfe_front = operator_benchmark(*CASES)
