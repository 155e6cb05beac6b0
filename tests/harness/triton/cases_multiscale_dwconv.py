"""Cases of multiscale_dwconv's Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw

RDFE = (3, 5, 7)


def arguments(
    draw: Draw,
    shape: tuple[int, int, int, int],
    kernels: Sequence[int] = RDFE,
    *,
    one_each: bool = False,
    scaled: bool = False,
    biased: Sequence[bool] = (True,) * 9,
    parameters: torch.dtype | None = None,
    contiguous: bool = False,
) -> Arguments:
    n, c, _, _ = shape
    images = [draw(*shape, contiguous=contiguous) for _ in (kernels if one_each else [1])]
    return {
        "x": images if one_each else images[0],
        "weights": [draw(c, 1, k, k, fan_in=k * k, dtype=parameters, contiguous=True) for k in kernels],
        "biases": [draw(c, dtype=parameters) if some else None for some, _ in zip(biased, kernels, strict=False)],
        "scale": draw(n, c, 1, 1, dtype=parameters).sigmoid() if scaled else None,
    }


def sliced(draw: Draw) -> Arguments:
    """Slices of images and of every parameter."""
    taken = arguments(draw, (2, 10, 6, 9), (3, 1), scaled=True)
    weights = [weight[::2] for weight in taken["weights"]]
    biases = [bias[::2] for bias in taken["biases"]]
    return {"x": taken["x"][:, 1:6, 1:, :7], "weights": weights, "biases": biases, "scale": taken["scale"][:, 5:]}


def unaligned(draw: Draw) -> Arguments:
    """Dense images of whole vectors whose first element lies at no multiple of 16 bytes."""
    taken = arguments(draw, (1, 24, 9, 19), scaled=True)
    flat = draw(9 * 19 * 24 + 1)
    return taken | {"x": flat[1:].view(1, 9, 19, 24).permute(0, 3, 1, 2)}


def frozen(draw: Draw) -> Arguments:
    """No parameter wants a gradient but the scale."""
    taken = arguments(draw, (2, 5, 4, 6), (3,), scaled=True)
    fixed = {name: [t.detach() for t in taken[name]] for name in ("weights", "biases")}
    return taken | fixed | {"x": taken["x"].detach()}


def _case(name: str, *shape: int, **options: object) -> Case:
    gradient = str(options.pop("gradient", "like"))
    return Case("multiscale_dwconv", name, partial(arguments, shape=shape, **options), gradient=gradient)


CASES = [
    # Segments of 256 elements (512 with one x each) and a rest, bands of 8 rows and a rest; shares of the columns' rows
    # that end inside a column.
    _case("c24", 2, 24, 13, 17),
    _case("c24-scaled", 2, 24, 17, 12, scaled=True),
    _case("one-each", 1, 24, 11, 23, one_each=True),
    _case("one-each-scaled", 2, 3, 9, 11, one_each=True, scaled=True, biased=(True, False, True)),
    _case("c1", 2, 1, 17, 9, biased=(False, False, False)),
    _case("c48", 1, 48, 3, 6, scaled=True),
    _case("c150", 2, 150, 2, 3, one_each=True),
    _case("one-pixel", 1, 5, 1, 1, scaled=True),
    _case("one-pixel-each", 3, 5, 1, 1, scaled=True),
    _case("other-kernels", 1, 6, 5, 7, kernels=(9, 3, 5), scaled=True),
    _case("large-kernel", 1, 3, 4, 5, kernels=(1, 11), one_each=True),
    _case("float32-parameters", 2, 24, 3, 5, scaled=True, parameters=torch.float32),
    _case("plain-layout", 2, 7, 5, 9, scaled=True, contiguous=True, gradient="contiguous"),
    # Of csrc/cuda: tiles of 32 x 24, 16 x 48 and 8 x 96 pixels x channels (half as many pixels where x is shared),
    # bands that begin and end inside an image, blocks of channels that are partly empty, branches in another order,
    # shares of sums that hold several tiles, and images that are no multiple of anything.
    _case("bands", 1, 24, 37, 21, scaled=True),
    _case("bands-each", 1, 48, 37, 21, one_each=True),
    _case("narrow", 3, 96, 9, 5, scaled=True),
    _case("narrow-each", 2, 200, 19, 3, one_each=True, scaled=True),
    _case("c192", 1, 192, 6, 16, scaled=True),
    _case("c32", 1, 32, 10, 35),
    _case("turned-order", 2, 8, 12, 18, kernels=(7, 3, 5), scaled=True),
    _case("one-branch", 2, 24, 21, 34, kernels=(7,), scaled=True),
    _case("two-branches", 1, 16, 10, 9, kernels=(5, 3), one_each=True),
    _case("twice-the-same", 1, 16, 10, 9, kernels=(5, 5), one_each=True, scaled=True),
    _case("many-images", 120, 2, 4, 33),
    _case("many-images-scaled", 140, 1, 2, 33, scaled=True),
    Case("multiscale_dwconv", "sliced", sliced, gradient="expanded"),
    Case("multiscale_dwconv", "unaligned", unaligned),
    Case("multiscale_dwconv", "frozen", frozen),
    *(
        Case(
            "multiscale_dwconv",
            f"{c}@{side}{'-one-each' if one_each else ''}",
            partial(arguments, shape=(BATCH, c, side, side), one_each=one_each, scaled=one_each),
            network=True,
        )
        for c, side in NETWORK
        for one_each in (False, True)
    ),
]
