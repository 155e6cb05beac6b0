"""skaf_descriptor at the network's four sizes; EDFF uses it too."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from aminet_fast.reference.skaf import skaf_features_ref

from .cases import BACKWARD, BOTH, FORWARD, Arguments, Case, Draw, operator_benchmark

KERNELS = (5, 7)


def make(draw: Draw, n: int, c: int, side: int) -> Arguments:
    weights, biases = draw.convolutions(c, c, KERNELS)
    return {"x": draw(n, c, side, side), "weights": weights, "biases": biases}


def settled(*arguments: Any) -> Tensor:
    """By how much the max is above the next channel."""
    first, second = skaf_features_ref(*arguments).topk(2, dim=1).values.unbind(1)
    return (first - second)[:, None]


CASES = (
    Case(
        "skaf_descriptor",
        make,
        images={FORWARD: 1, BACKWARD: 2, BOTH: 3},  # x; x, dx
        macs=lambda c: sum(k * k for k in KERNELS) * c * c,
        whats=(FORWARD, BACKWARD, BOTH),
        settled=settled,
    ),
)
bench_skaf_descriptor = operator_benchmark(*CASES)
