"""Cases of rdfe_front's Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw


def arguments(
    draw: Draw,
    shape: tuple[int, int, int, int],
    kernels: Sequence[int] = (3, 5, 7),
    hidden: int = 0,
    contiguous: bool = False,
    dtype: torch.dtype | None = None,
) -> Arguments:
    """dtype: of the parameters."""
    c, b = shape[1], len(kernels)
    hidden = hidden or max(c // 4, 1)
    made = partial(draw, dtype=dtype, contiguous=True)

    def depthwise(which: str) -> Arguments:
        weights = [made(c, 1, k, k, fan_in=k * k) for k in kernels]
        return {f"{which}_weights": weights, f"{which}_biases": [made(c) for _ in kernels]}

    return {
        "y": draw(*shape, contiguous=contiguous),
        **depthwise("dw1"),
        "reduce_weight": made(hidden, b * c, 1, 1, fan_in=c),
        "reduce_bias": made(hidden),
        "expand_weight": made(c, hidden, 1, 1, fan_in=hidden),
        "expand_bias": made(c),
        **depthwise("dw2"),
        "fuse_weight": made(c, b * c, 1, 1, fan_in=b * c),
        "fuse_bias": made(c),
    }


def packed(draw: Draw) -> Arguments:
    """With what rdfe_front_prepack makes on a GPU: rows [C] of taps and biases, the second convolutions' below.

    From them a and f are made, so that others would show in every result.
    """
    made = arguments(draw, (2, 24, 4, 5))
    depthwise = [(made[f"{of}_weights"][k], made[f"{of}_biases"][k]) for of in ("dw1", "dw2") for k in range(3)]
    rows = [row for weight, bias in depthwise for row in (weight.flatten(1).t(), bias[None])]
    return made | {"packed": torch.cat(rows).detach().float().contiguous()}


def sliced(draw: Draw) -> Arguments:
    made = arguments(draw, (1, 6, 4, 5))
    return made | {"y": draw(1, 9, 5, 6)[:, 1:7, 1:, 1:]}


WHOLE = "all of up to 256 outputs, so that nothing is filtered twice; at 192@16 there are as many programs as places"
ONE_BLOCK = {"fuse_rows": WHOLE}

# (name, y's shape)
SHAPES = [
    ("c24", (2, 24, 5, 7)),
    ("c1", (1, 1, 6, 3)),
    ("c3", (2, 3, 9, 2)),
    ("row", (1, 24, 1, 4)),
    ("column", (1, 5, 4, 1)),
    ("one-pixel", (1, 3, 1, 1)),  # numbers that are 1 are constants to Triton
    ("one-pixel-each", (2, 3, 1, 1)),
    # Two tiles of pixels, two chunks of rows away from the border.
    ("tiles", (1, 8, 24, 67)),
    ("c40", (1, 40, 6, 17)),
]

# For the compiled kernels: windows of 16, 32, 64 and 128 columns and more than one, bands of 8 rows and a rest, blocks
# of 8 channels and a rest, the network's numbers of channels. Triton's have nothing to show there.
CUDA_SHAPES = [
    ("odd-c24", (1, 24, 37, 21)),
    ("strips-c24", (2, 24, 18, 70)),
    ("windows-c24", (1, 24, 11, 133)),
    ("one-strip-c24", (1, 24, 5, 32)),
    ("odd-c48", (1, 48, 37, 21)),
    ("wide-c48", (1, 48, 19, 61)),  # the widest window in which the backward makes F^T dz of 48 channels
    ("windows-c20", (1, 20, 10, 131)),  # more than one of those that read it
    ("c96", (1, 96, 7, 33)),
    ("c192", (2, 192, 8, 8)),
    ("c49", (1, 49, 3, 18)),
    ("c248", (1, 248, 3, 3)),
]


def case(name: str, shape: tuple[int, int, int, int], gradient: str = "like", **options: object) -> Case:
    return Case("rdfe_front", name, partial(arguments, shape=shape, **options), gradient=gradient)


# In float16 a looser tolerance: df' and df are kept in y's dtype, and rounding these two alone in a float64 reference
# gives the kernels' gradient of the first bias, beyond the tolerance in 2 to 4 of 200 draws, here 1.5 times as far.
ONE_BRANCH = case("one-branch", (1, 4, 5, 5), kernels=(5,), hidden=3)
CASES = [
    *(case(name, shape) for name, shape in SHAPES),
    *(replace(case(name, shape), compile=False) for name, shape in CUDA_SHAPES),
    replace(ONE_BRANCH, dtypes=(torch.float32, torch.bfloat16)),
    replace(ONE_BRANCH, name="one-branch-float16", dtypes=(torch.float16,), loosen=2.0),
    case("four-branches", (1, 4, 3, 5), kernels=(3, 1, 5, 3)),
    case("float32-parameters", (1, 24, 4, 4), dtype=torch.float32),
    Case("rdfe_front", "packed", packed),
    case("plain-layout", (2, 6, 3, 4), contiguous=True, gradient="contiguous"),
    Case("rdfe_front", "sliced", sliced, gradient="expanded"),
    Case("rdfe_front", "c272", partial(arguments, shape=(1, 272, 3, 3)), compile_only=True, one_block=ONE_BLOCK),
    *(
        Case(
            "rdfe_front",
            f"{c}@{side}",
            partial(arguments, shape=(BATCH, c, side, side)),
            network=True,
            one_block=ONE_BLOCK if c > 128 else {},
        )
        for c, side in NETWORK
    ),
]
