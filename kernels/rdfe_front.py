"""rdfe_front: z = sum_k F_k DW2_k(a f_k) + y with f_k = DW_k(y), a = AU(mean f), and its gradients.

`a` comes from sums of y (rdfe_front_sums.py), so everything after it is linear. In images of N*C*H*W read and written,
forward is

    sums of y 1, a;  f_k = DW_k(y) 1 + 3 (multiscale_dwconv's pass);
    z 3 + 1 and 1, f'_k = DW2_k(a f_k) only in registers

10 in all, where one kernel from y to z would move 3: it would make f_k again, tile by tile with a halo of 3, which for
tiles of 16 x 16 is 226 multiply-adds an element instead of 166, and those are the other limit: 85 us at 24@128 where
the passes take 62 for them and 84 for their bytes, so the floor would stay. A pixel's neighbours are other threads',
so a tile of f_k would go through memory all the same; at 96@32 and 192@16 f_k fits into an L2 of 50 MB as it is. f_k is
stored, and in backward again, in y's dtype. Backward keeps y, a and sums alone:

    f_k again 1 + 3;  df'_k = F_k^T dz 1 + 3;  df_k = a DW2_k^T(df'_k) 3 + 3;  sums for dW2 and da 3 + 3;
    dW1 from y and df_k 1 + 3;  dy = sum_k DW1_k^T(df_k + constant_k) + dz 3 + 1 and 1;
    dF from dz and f_k, f' in registers 1 + 3

33 in all. df'_k made where it is loaded would save 8 and take F_k^T dz once for every tap's neighbourhood. What a's
gradient adds to df_k is one number an image, branch and channel: added as dy's pass loads df_k, and to dW1 as that
number times the sums of y.

Forward has 6 launches and backward 12. One of either packs both depthwise convolutions' weights, for which a caller
may keep them packed; what passes over images leave is added up where it is used or, for the parameters' gradients, in
two small kernels (rdfe_front_parameters.py, _totals.py).

Floors of an H100 at 3.0 TB/s and 67 TFLOP/s float32 beside the tensor cores' 800 TFLOP/s, batch 32, bf16:

| c@side | image, MB | forward, MB | us | filters, GFLOP | us | backward, MB | us | filters, GFLOP | us |
|---|---|---|---|---|---|---|---|---|---|
| 24@128 | 25.2 | 251.7 | 83.9 | 4.18 | 62.3 | 830.5 | 276.8 | 12.53 | 187.0 |
| 48@64 | 12.6 | 125.8 | 41.9 | 2.09 | 31.2 | 415.2 | 138.4 | 6.26 | 93.5 |
| 96@32 | 6.3 | 62.9 | 21.0 | 1.04 | 15.6 | 207.6 | 69.2 | 3.13 | 46.7 |
| 192@16 | 3.1 | 31.5 | 10.5 | 0.52 | 7.8 | 103.8 | 34.6 | 1.57 | 23.4 |

The fusion is 1.81 GFLOP forward at each size and 3.62 backward, 2.3 and 4.5 us.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._common import (
    all_registers_before_3_7,
    cdiv,
    channels_last,
    dot_precision,
    next_power_of_2,
    on_device_of,
    refuse_float64,
)
from ._totals import Total, add_up
from .multiscale_dwconv_filter import filtered, pack
from .multiscale_dwconv_sums import tap_sums_by_image
from .rdfe_front_fuse import fuse_gradient, fuse_rows, fuse_transposed
from .rdfe_front_parameters import depthwise_gradients
from .rdfe_front_rows import ROWS, input_gradient
from .rdfe_front_sums import window_sums
from .rdfe_front_unit import unit, unit_backward

LANES = 512  # of a row of dy


class _Parameters:
    """rdfe_front's parameters by what they are for."""

    def __init__(self, parameters: list[Tensor]) -> None:
        b = (len(parameters) - 6) // 4
        given = [parameter.contiguous() for parameter in parameters]
        self.weights1, self.biases1 = given[:b], given[b : 2 * b]
        self.unit = given[2 * b : 2 * b + 4]  # reduce's and expand's weights and biases
        self.weights2, self.biases2 = given[2 * b + 4 : 3 * b + 4], given[3 * b + 4 : -2]
        self.fuse, self.fuse_bias = given[-2:]
        self.sizes = tuple(weight.shape[-1] for weight in self.weights1)
        self.largest = max(self.sizes)
        self.inputs = self.fuse.shape[1]  # of the fusion: channels of all branches

    def packed(self, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Both depthwise convolutions packed; kept: what rdfe_front_prepack made of them, if it was called."""
        if kept is None:
            kept = rdfe_front_prepack([*self.weights1, *self.weights2], [*self.biases1, *self.biases2])
        first, second = kept.chunk(2)
        return first, second


@dataclass(frozen=True)
class _Tiles:
    """Of ROWS rows of `columns` pixels, `block` channels in and `outputs` out at a time."""

    columns: int
    block: int
    outputs: int
    across: int
    down: int
    count: int  # of tiles of all images
    warps: int

    @staticmethod
    def of_rows(y: Tensor) -> _Tiles:
        """fuse_rows': every output of up to 256, so that nothing is filtered twice."""
        outputs = min(max(next_power_of_2(y.shape[1]), 16), _of(y, 64, 256))
        block = max(outputs // 4, 8)
        few = outputs == 16  # where a product's operands are as long as its results are few: half a tile in float32
        columns = max(16, _of(y, 128 if few else 256, 512) // block)
        return _Tiles._cut(y, min(columns, 64), block, outputs, _of(y, 1 if few else 2, 4))

    @staticmethod
    def of_gradient(y: Tensor) -> _Tiles:
        """fuse_gradient's, smaller: rows of outputs' gradients are operands beside the filtered rows."""
        outputs = min(max(next_power_of_2(y.shape[1]), 16), _of(y, 32, 128))
        block = min(max(outputs // 4, 8), _of(y, 8, 32))
        columns = min(max(16, 512 // block), _of(y, 16, 32))
        each = _of(y, 1, 4 if outputs > 32 else 2)
        return _Tiles._cut(y, columns, block, outputs, each)

    @staticmethod
    def _cut(y: Tensor, columns: int, block: int, outputs: int, each: int) -> _Tiles:
        """The same for every width; each: numbers of a filtered row that a thread has."""
        n, _, h, w = y.shape
        across, down = cdiv(w, columns), cdiv(h, ROWS)
        return _Tiles(columns, block, outputs, across, down, n * across * down, columns * block // (32 * each))

    def constants(self) -> tuple[int, int, int]:
        return self.columns, self.block, self.outputs


def _of(y: Tensor, float32: int, less: int) -> int:
    """The first for float32, whose products hold operands in every thread, not in tensor cores' fragments."""
    return float32 if y.dtype == torch.float32 else less


def rdfe_front_prepack(weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Of the first depthwise convolutions and then of the second: [2 * rows, C], float32."""
    return pack(weights, biases, torch.float32)


def rdfe_front_fwd(y: Tensor, parameters: list[Tensor], packed: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """z, a and sums of ops/rdfe_front.py's schema."""
    refuse_float64("rdfe_front", y)
    p, x = _Parameters(parameters), channels_last(y)
    _, c, h, w = y.shape
    tiles, z = _Tiles.of_rows(x), torch.empty_like(x)
    with on_device_of(y):
        sums = window_sums(x, p.largest)
        first, second = p.packed(packed)
        a = unit(sums, p.sizes, first, p.unit, h * w)
        f = filtered([x], first, p.sizes, None)
        fuse_rows[tiles.count, cdiv(c, tiles.outputs)](
            *(tuple(f), a, second, p.fuse, p.fuse_bias, x, z, h, w, tiles.across, tiles.down, c),
            *(c, p.inputs, p.sizes, *tiles.constants(), dot_precision()),
            num_warps=tiles.warps,
        )
    return _laid_out(z, y), a, sums


def rdfe_front_bwd(
    dz: Tensor, y: Tensor, a: Tensor, sums: Tensor, parameters: list[Tensor], need_y: bool, need_parameters: bool
) -> tuple[Tensor, list[Tensor]]:
    """dy and the parameters' gradients of ops/rdfe_front.py's schema."""
    refuse_float64("rdfe_front", y)
    p, x, dz = _Parameters(parameters), channels_last(y), channels_last(dz.to(y.dtype))
    h, w = y.shape[2:]
    dy, gradients = y.new_empty((0,)), []
    with on_device_of(y):
        first, second = p.packed()
        f = filtered([x], first, p.sizes, None)
        before = _before_fuse(dz, p)
        df = filtered(before, second, p.sizes, a, turned=True)
        pairs = [(before, f), (df, [x])] if need_parameters else [(before, f)]
        folded = tap_sums_by_image(pairs, p.sizes)
        of_unit = unit_backward(sums, p.sizes, first, p.unit, h * w, a, folded[0], second)
        if need_y:
            dy = _laid_out(_input_gradient(df, of_unit.constant, first, dz, p), y)
        if need_parameters:
            fuse, fuse_bias = _fuse_gradient(f, dz, a, second, p)
            gradients = [parameter.new_empty(parameter.shape) for parameter in parameters]
            to = _Parameters(gradients)
            found = to.weights1, to.biases1, to.weights2, to.biases2
            depthwise_gradients(folded, a, of_unit.constant, sums, p.fuse, fuse_bias, h * w, p.sizes, found)
            add_up(of_unit.totals(to.unit), [Total(fuse, to.fuse), Total(fuse_bias, to.fuse_bias)])
    return dy, gradients


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """x, channels_last, in the layout that the operator promises for `like`."""
    return x if like.stride(1) == 1 else x.contiguous()


def _before_fuse(dz: Tensor, p: _Parameters) -> list[Tensor]:
    """df'_k of all branches, channels_last."""
    n, c, h, w = dz.shape
    df = dz.new_empty((p.inputs // c, n, h, w, c))
    pixels, block = 64, min(max(next_power_of_2(c), 16), _of(dz, 32, 64))
    fuse_transposed[(cdiv(n * h * w, pixels),)](
        *(dz, p.fuse, df, n * h * w, c, p.inputs, pixels, block, min(block, _of(dz, 16, 64)), dot_precision()),
        num_warps=_of(dz, 8, 4),
        num_stages=2,
    )
    return [part.permute(0, 3, 1, 2) for part in df]


def _input_gradient(df: list[Tensor], constant: Tensor, packed: Tensor, dz: Tensor, p: _Parameters) -> Tensor:
    n, c, h, w = dz.shape
    # Where neighbours are of two pixels each has addresses of its own, which take registers.
    lanes = LANES if c % 4 == 0 and c <= 256 else LANES // 2
    blocks, down, dy = cdiv(w * c, lanes), cdiv(h, ROWS), torch.empty_like(dz)
    input_gradient[(n * down * blocks,)](
        tuple(df),
        constant,
        packed,
        dz,
        dy,
        h,
        w,
        down,
        blocks,
        c,
        p.sizes,
        lanes,
        num_warps=4,
        **all_registers_before_3_7(),
    )
    return dy


def _fuse_gradient(f: list[Tensor], dz: Tensor, a: Tensor, second: Tensor, p: _Parameters) -> tuple[Tensor, Tensor]:
    """[splits, C, branches * C] and [splits, C], to be added up: splits that the shape alone decides."""
    _, c, h, w = dz.shape
    tiles = _Tiles.of_gradient(dz)
    # Many, because a branch of 7 x 7 takes five times as long as one of 3 x 3; for large images their sums are less
    # than half of one.
    splits = min(tiles.count, max(16, min(256, dz.numel() // (4 * c * p.inputs))))
    partial = dz.new_empty((splits, c, p.inputs), dtype=torch.float32)
    partial_bias = dz.new_empty((splits, c), dtype=torch.float32)
    fuse_gradient[splits * len(f) * cdiv(c, tiles.block), cdiv(c, tiles.outputs)](
        *(tuple(f), dz, a, second, partial, partial_bias, h, w, tiles.across, tiles.down, tiles.count, splits),
        *(c, p.inputs, p.sizes, *tiles.constants(), dot_precision()),
        num_warps=tiles.warps,
        num_stages=1,
    )
    return partial, partial_bias
