"""multiscale_dwconv: y_k = DW_k(a * x_k) + b_k for branches k of odd sizes, of one x or one each, and its gradients.

Forward is one pass that reads x (or each x_k) and writes the y_k. Backward is the same pass with turned taps from the
dy_k to dx, summed over the branches where they share x, and a pass of sums over x and dy_k to dW, db and da. The scale
a [N, C, 1, 1] is linear and weighs sums, never images. Why the passes are tiled as they are: their own files.

At the network's sizes (batch 32, bf16, kernels 3, 5, 7; forward reads 1 and writes 3 images of N*C*H*W, backward reads
3 for dx and 1 + 3 for dW and writes 1) the floors of an H100 at 3.0 TB/s, and beside them those of its float32 units
(67 TFLOP/s; a depthwise convolution has no use for tensor cores), 83 multiply-adds an element forward and 166 backward:

| c@side | image, MB | forward, MB | us | GFLOP | us | backward, MB | us | GFLOP | us |
|---|---|---|---|---|---|---|---|---|---|
| 24@128 | 25.2 | 100.7 | 33.6 | 2.09 | 31.2 | 201.3 | 67.1 | 4.18 | 62.3 |
| 48@64 | 12.6 | 50.3 | 16.8 | 1.04 | 15.6 | 100.7 | 33.6 | 2.09 | 31.2 |
| 96@32 | 6.3 | 25.2 | 8.4 | 0.52 | 7.8 | 50.3 | 16.8 | 1.04 | 15.6 |
| 192@16 | 3.1 | 12.6 | 4.2 | 0.26 | 3.9 | 25.2 | 8.4 | 0.52 | 7.8 |

Both floors are about the same, so a pass is as good as its share of instructions that are multiply-adds. One x each:
forward moves 6 images, backward 12.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ._common import accumulator, channels_last
from .multiscale_dwconv_filter import filtered, pack
from .multiscale_dwconv_fold import parameter_gradients, scale_gradient
from .multiscale_dwconv_sums import tap_sums


def multiscale_dwconv_fwd(
    x: Sequence[Tensor], weights: Sequence[Tensor], biases: Sequence[Tensor], scale: Tensor | None
) -> list[Tensor]:
    """y_k for every branch, channels_last; a bias with no elements stands for none."""
    packed = pack(weights, biases, accumulator(x[0]))
    factors = None if scale is None else scale.contiguous()
    return filtered([channels_last(image) for image in x], packed, _sizes(weights), factors)


def multiscale_dwconv_bwd(
    dy: Sequence[Tensor],
    x: Sequence[Tensor],
    weights: Sequence[Tensor],
    scale: Tensor | None,
    need_x: bool,
    need_weights: bool,
    need_scale: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """(dx, dweights, dbiases, dscale); empty lists, or no elements, for what is not needed."""
    kernels, dtype = _sizes(weights), accumulator(x[0])
    gradients = [channels_last(gradient.to(x[0].dtype)) for gradient in dy]
    factors = None if scale is None else scale.contiguous()
    need_scale = need_scale and scale is not None
    packed = pack(weights, [None] * len(weights), dtype) if need_x or need_scale else None
    dx: list[Tensor] = []
    if need_x and packed is not None:
        dx = filtered(gradients, packed, kernels, factors, turned=True, summed=len(x) == 1)
    dweights: list[Tensor] = []
    dbiases: list[Tensor] = []
    dscale = x[0].new_empty(0)
    if need_weights or need_scale:
        by_image = factors is not None
        sums = tap_sums(gradients, [channels_last(image) for image in x], kernels, by_image, dtype)
        if need_weights:
            dweights, dbiases = parameter_gradients(sums, weights, factors)
        if need_scale and factors is not None and packed is not None:
            dscale = scale_gradient(sums, packed, factors)
    return dx, dweights, dbiases, dscale


def _sizes(weights: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(weight.shape[-1] for weight in weights)
