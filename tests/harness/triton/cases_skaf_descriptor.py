"""Cases of skaf_descriptor's Triton kernels."""

from __future__ import annotations

import os
from functools import partial

import torch
from torch import Tensor

from aminet_fast.reference.skaf import skaf_features_ref

from .case import BATCH, DTYPES, NETWORK, Arguments, Case, Draw

if os.environ.get("TRITON_INTERPRET") == "1":
    from aminet_fast.kernels import skaf_descriptor as kernels

    kernels.FEW_PIXELS = 300  # so that images small enough for the interpreter take both ways forward
FEW = {"parts_kernel": "of few pixels there are about two programs for each multiprocessor"}
GEMM = {"descriptor_kernel": "a tile of 128 x 128 with three buffers of each side is what feeds the tensor cores"}


def arguments(
    draw: Draw, n: int, c: int, h: int, w: int, kernels: tuple[int, ...] = (5, 7), outputs: int | None = None
) -> Arguments:
    weights = [draw(outputs or c, c, k, k, fan_in=c * k * k) for k in kernels]
    return {"x": draw(n, c, h, w), "weights": weights, "biases": [draw(outputs or c, fan_in=9) for _ in kernels]}


def settled(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """How far the maximum is from the next channel."""
    u = skaf_features_ref(x, weights, biases)
    if u.shape[1] == 1:
        return torch.ones_like(u)
    first, second = u.topk(2, 1).values.unbind(1)
    return (first - second)[:, None]


def plain(draw: Draw) -> Arguments:
    weights = [draw(6, 8, k, k, contiguous=True, fan_in=8 * k * k) for k in (3, 5)]
    return {"x": draw(2, 8, 6, 5, contiguous=True), "weights": weights, "biases": [draw(6), draw(6)]}


def sliced(draw: Draw) -> Arguments:
    weights = [draw(9, 7, k, k, fan_in=5 * k * k)[1::2, 1:6] for k in (5, 3)]
    return {"x": draw(2, 9, 6, 7)[:, 2:7, 1:], "weights": weights, "biases": [draw(4), draw(8)[::2]]}


def float32_parameters(draw: Draw) -> Arguments:
    """As autocast gives them: the images alone in 16 bits."""
    weights = [draw(8, 8, k, k, fan_in=8 * k * k, dtype=torch.float32) for k in (3, 5)]
    biases = [draw(8, dtype=torch.float32) for _ in weights]
    # The reference's numbers are those of weights rounded to the images' dtype.
    weights = [w.detach().to(draw.dtype).float().requires_grad_() for w in weights]
    return {"x": draw(1, 8, 5, 6), "weights": weights, "biases": biases}


def fixed_image(draw: Draw) -> Arguments:
    """x wants no gradient, so that its weights are packed for forward alone."""
    return arguments(draw, 1, 8, 4, 5, kernels=(3, 5)) | {"x": draw(1, 8, 4, 5, grad=False)}


def case(
    name: str, *shape: int, kernels: tuple[int, ...] = (5, 7), outputs: int | None = None, tf32: bool = False
) -> Case:
    n, c, h, w = shape
    function = partial(arguments, n=n, c=c, h=h, w=w, kernels=kernels, outputs=outputs)
    dtypes = (torch.float32,) if tf32 else DTYPES
    return Case("skaf_descriptor", name, function, settled=settled, one_block=FEW, dtypes=dtypes, tf32=tf32)


CASES = [
    # 308 pixels: several blocks of the sorting, and a tile that is not full.
    case("c24", 2, 24, 11, 14),
    case("c24-few", 1, 24, 5, 8),
    case("c1", 1, 1, 3, 2),
    case("c1-rows", 1, 1, 1, 131),
    case("c3", 2, 3, 5, 7),
    case("c3-more-pixels", 2, 3, 19, 8),
    case("square-tiles", 2, 3, 16, 32),
    case("square-tiles-few", 1, 3, 16, 16),
    case("one-pixel", 1, 16, 1, 1),
    case("three-sizes", 2, 5, 6, 4, kernels=(1, 9, 3), outputs=7),
    case("one-size", 1, 8, 4, 6, kernels=(3,), outputs=1),
    case("wide", 1, 8, 11, 10, kernels=(3, 5), outputs=70),
    # Of the CUDA kernels: rows that are no whole vectors, three runs of sorted pixels; channels in two chunks, the
    # second of one vector, outputs in several groups that are not full, by large tiles and by small ones; runs that are
    # sorted in two rounds.
    case("c20", 2, 20, 18, 37),
    case("c56", 1, 56, 9, 37, outputs=30),
    case("c56-few", 1, 56, 5, 7, outputs=30),
    case("c40", 1, 40, 27, 41, kernels=(3, 5), outputs=3),
    case("larger-first", 1, 16, 6, 19, kernels=(7, 5), outputs=10),
    # TF32: one chunk of channels, several, rows that are no whole vectors; by large tiles, and several chunks by small.
    case("c24-tf32", 2, 24, 11, 14, tf32=True),
    case("c56-tf32", 1, 56, 9, 37, outputs=30, tf32=True),
    case("c7-tf32", 1, 7, 6, 19, outputs=30, tf32=True),
    case("one-size-tf32", 1, 28, 4, 6, kernels=(3,), outputs=1, tf32=True),
    Case("skaf_descriptor", "plain-layout", plain, settled=settled, gradient="contiguous"),
    Case("skaf_descriptor", "sliced", sliced, settled=settled, gradient="expanded"),
    Case("skaf_descriptor", "float32-parameters", float32_parameters, settled=settled),
    Case("skaf_descriptor", "fixed-image", fixed_image, settled=settled),
    *(
        Case(
            "skaf_descriptor",
            f"{c}@{side}",
            partial(arguments, n=BATCH, c=c, h=side, w=side),
            network=True,
            one_block=GEMM,
        )
        for c, side in NETWORK
    ),
    # Inference: so few pixels that the GEMM is cut along its sum.
    Case("skaf_descriptor", "192@16-alone", partial(arguments, n=1, c=192, h=16, w=16), compile_only=True),
]
