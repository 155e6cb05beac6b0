"""m = [mean, max] over the channels of u = cat(conv_k(x)), its argmax, and the gradients of that without u's.

Forward (skaf_descriptor_forward.py) is one implicit GEMM, [pixels, K * K * C] x [K * K * C, channels of u], with a tile
of pixels a program and all channels one block after the other, so that mean and max are its epilogue and u stays in
registers. Taps and channels are one axis: at C = 24 none of it is padding. Of few pixels (inference) there are too few
tiles to fill a GPU; then blocks and parts of the sum are programs of their own, which write u, some MB of it.

Weights are packed by one launch for forward and for x's gradient; a training call is eight or nine launches: pack,
forward (of few pixels two), one for dx and six for the parameters.

Backward, u's gradient is dmean / total in every channel and dmax more in the channel of the maximum. So dx
(skaf_descriptor_input.py) is a product with one matrix and a gather of weights, and dW (skaf_descriptor_parameters.py)
one product and sums over pixels sorted by channel; on average 37 * C multiply-adds a pixel, not 74 * C * C, but without
tensor cores. One product with the one-hot argmax in dW would be 59 GFLOP at each size: 74 us at best, where the sorted
sums do 0.9 GFLOP at 24@128 and half as many at each further size. Where these are slowest, at 24@128, both read every
pixel's window from caches, 0.9 GB, and the one-hot matrix, 48 channels padded to 64, would take 99 us of tensor cores.

Floors on an H100 (3.0 TB/s; 800 TFLOP/s bfloat16 on tensor cores, 60 TFLOP/s float32 on others), batch 32, bfloat16,
5x5 and 7x7, argmax equally often in either:

    size      forward GFLOP  MB   us   dx GFLOP  MB   us   dW GFLOP  MB   us
    24@128             44.7  29   56       0.93  29   16       0.93  29   16
    48@64              44.7  14   56       0.47  14    8       0.47  14    8
    96@32              44.7   8   56       0.23   8    4       0.23   8    4
    192@16             44.7  10   56       0.12  10    3       0.12   9    3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._common import cdiv, channels_last, dot_precision, empty_as, next_power_of_2, on_device_of, refuse_float64
from .skaf_descriptor_forward import descriptor_kernel, pack_kernel, parts_kernel, pool_kernel
from .skaf_descriptor_input import input_kernel
from .skaf_descriptor_parameters import (
    correlate_kernel,
    count_kernel,
    finish_kernel,
    offsets_kernel,
    segments_kernel,
    sort_kernel,
)

WIDEST = 128  # columns of the GEMM at a time
NARROWEST = 16
FEW_PIXELS = 16384  # fewer than two tiles of 128 for each multiprocessor of a large GPU, about half of the time
PROGRAMS = 256  # that few pixels are to be shared by
INPUT_TILE = 1024  # numbers of dx in 16 bits: one vector a thread (half, where pixels are no whole vectors)
CORRELATIONS, CORRELATED = 256, 32  # programs that share the pixels, and pixels at a time
SORTED = 64  # pixels that are ranked among each other


@dataclass(frozen=True)
class Plan:
    """What of the convolutions the kernels are compiled for."""

    window: int  # the largest size
    total: int  # channels of u
    first: int  # of them the first convolution's
    starts: tuple[int, ...]  # columns of the GEMM where a convolution begins, largest size first
    shifts: tuple[int, ...]  # what added to its columns makes them channels of u
    widths: tuple[int, ...]  # of the blocks of columns
    sizes: tuple[int, ...]  # the largest size in each of them


def plan(weights: Sequence[Tensor]) -> Plan:
    """The columns in blocks: binary digits of their number, at most WIDEST, so that little is computed in vain.

    A block that holds channels of two sizes takes the larger for all of them. Blocks of one size only, cut at powers
    of two, would compute a third more in vain at 24 channels; these compute a tenth more at 24 + 24 to 192 + 192.
    """
    channels, sizes = [w.shape[0] for w in weights], [w.shape[-1] for w in weights]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    starts = [sum(channels[j] for j in order[:i]) for i in range(len(order))]
    total = sum(channels)
    left, widths = cdiv(total, NARROWEST) * NARROWEST, []
    while left:
        widths.append(min(WIDEST, 1 << (left.bit_length() - 1)))
        left -= widths[-1]
    largest = [max(i for i, start in enumerate(starts) if start <= sum(widths[:b])) for b in range(len(widths))]
    return Plan(
        window=max(sizes),
        total=total,
        first=channels[0],
        starts=tuple(starts),
        shifts=tuple(sum(channels[: order[i]]) - starts[i] for i in range(len(order))),
        widths=tuple(widths),
        sizes=tuple(sizes[order[i]] for i in largest),
    )


def skaf_descriptor_pack(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """[(total + 1) * window * window * C]: see kernels/skaf_descriptor_forward.py."""
    c, window = weights[0].shape[1], max(w.shape[-1] for w in weights)
    firsts, length = _firsts(weights), window * window * c
    size = (firsts[-1] + 1) * length
    if size >= 2**31:
        raise ValueError(f"skaf_descriptor: its Triton kernels take fewer than 2**31 weights, got {size} with padding")
    packed = weights[0].new_empty(size, dtype=dtype)
    with on_device_of(packed):
        pack_kernel[(cdiv(length, 32),)](
            tuple(weights), _strides(weights), packed, C=c, SIZES=_sizes(weights), FIRSTS=firsts, WINDOW=window,
            BLOCK_O=32, BLOCK=32,
        )  # fmt: skip
    return packed


def _sizes(weights: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(w.shape[-1] for w in weights)


def _firsts(weights: Sequence[Tensor]) -> tuple[int, ...]:
    """Of the channels of u, each convolution's first one; and how many there are."""
    return tuple(sum(w.shape[0] for w in weights[:i]) for i in range(len(weights) + 1))


def _strides(weights: Sequence[Tensor]) -> tuple[int, ...]:
    """Four each."""
    return tuple(stride for w in weights for stride in w.stride())


def skaf_descriptor_fwd(
    x: Tensor, weights: list[Tensor], biases: list[Tensor], packed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    refuse_float64("skaf_descriptor", x)
    image, (n, c, h, w), p = channels_last(x), x.shape, plan(weights)
    if packed is None or packed.dtype != x.dtype:
        packed = skaf_descriptor_pack(weights, x.dtype)
    first = biases[0].contiguous()
    rest = first if len(biases) == 1 else torch.cat(biases[1:]) if len(biases) > 2 else biases[1].contiguous()
    m, argmax = x.new_empty((n, 2, h, w)), x.new_empty((n, h, w), dtype=torch.int32)
    precision, pixels = _precision(x), n * h * w
    columns = {"TOTAL": p.total, "STARTS": p.starts, "SHIFTS": p.shifts}
    gemm = columns | {"C": c, "WINDOW": p.window, "WIDTHS": p.widths, "SIZES": p.sizes}
    gemm |= {"PRECISION": precision, "TILED": _tiled(h, w)}
    with on_device_of(x):
        if pixels >= FEW_PIXELS:
            descriptor_kernel[lambda tile: (cdiv(pixels, tile["BLOCK_M"]),)](
                image, packed, first, rest, m, argmax, pixels, h, w, FIRST=p.first, **gemm
            )
            return m, argmax
        rows, products, warps, stages = (64, 32, 4, 4) if x.dtype != torch.float32 else (32, 32, 8, 2)
        tiles, width, length = cdiv(pixels, rows), sum(p.widths), p.window * p.window * c
        splits = max(1, min(PROGRAMS // (tiles * len(p.widths)), length // (4 * products)))
        # float32 beside 16-bit images: rounded to bfloat16, parts move the maximum to another channel at 0.3 to 0.4 %
        # of pixels (96@32, four parts, and 192@16, eight; random data, against float64), and dx and dW with it.
        parts = x.new_empty((splits, pixels, width), dtype=torch.float32)
        parts_kernel[(tiles, len(p.widths), splits)](
            image, packed, parts, pixels, h, w,
            COLUMNS=width, SPLITS=splits, BLOCK_M=rows, BLOCK_K=products, num_warps=warps, num_stages=stages,
            **gemm,
        )  # fmt: skip
        pool_kernel[(cdiv(pixels, 32),)](
            parts, first, rest, m, argmax, pixels, h * w,
            FIRST=p.first, COLUMNS=width, SPLITS=splits, BLOCK_M=32, BLOCK_N=32, **columns,
        )  # fmt: skip
    return m, argmax


def _tiled(h: int, w: int) -> bool:
    """Whether tiles of 16 columns and 16 rows, or fewer, fit into an image."""
    return h % 16 == 0 and w % 16 == 0


def _precision(x: Tensor) -> str:
    return dot_precision() if x.dtype == torch.float32 else "ieee"


def _channel_block(c: int) -> int:
    """Channels at a time: a power of two that divides them, if that is no less than 8."""
    dividing = c & -c
    return min(64, dividing if dividing >= 8 else max(16, next_power_of_2(c)))


def skaf_descriptor_bwd_input(dm: Tensor, argmax: Tensor, weights: list[Tensor]) -> Tensor:
    return skaf_descriptor_bwd_packed(dm, argmax, weights, None)


def skaf_descriptor_bwd_packed(dm: Tensor, argmax: Tensor, weights: list[Tensor], packed: Tensor | None) -> Tensor:
    refuse_float64("skaf_descriptor", dm)
    (n, _, h, w), c = dm.shape, weights[0].shape[1]
    dm, argmax, pixels = dm.contiguous(), argmax.contiguous(), n * h * w
    if packed is None or packed.dtype != dm.dtype:
        packed = skaf_descriptor_pack(weights, dm.dtype)
    dx = dm.new_empty((n, h, w, c)).permute(0, 3, 1, 2)
    block = _channel_block(c)
    tile = INPUT_TILE // block // (2 if dm.dtype == torch.float32 or c * dm.element_size() % 16 else 1)
    with on_device_of(dm):
        input_kernel[(cdiv(pixels, tile), cdiv(c, block))](
            dm, argmax, packed, dx, pixels, h, w, C=c, WINDOW=max(_sizes(weights)), FIRSTS=_firsts(weights),
            RADII=tuple(size // 2 for size in _sizes(weights)), PRECISION=_precision(dm),
            TILED=_tiled(h, w), BLOCK_M=tile, BLOCK_C=block, BLOCK_T=16,
        )  # fmt: skip
    return dx


def skaf_descriptor_bwd_parameters(
    dm: Tensor, x: Tensor, argmax: Tensor, weights: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    refuse_float64("skaf_descriptor", x)
    image, dm, argmax = channels_last(x), dm.to(x.dtype).contiguous(), argmax.contiguous()
    (n, c, h, w), sizes, firsts = x.shape, _sizes(weights), _firsts(weights)
    pixels, window, total = n * h * w, max(sizes), firsts[-1]
    length = window * window * c
    dweights = [empty_as(weight) for weight in weights]
    dbiases = [weight.new_empty(weight.shape[0]) for weight in weights]
    chunk = min(4096, max(128, next_power_of_2(pixels) // 256))
    chunks, blocks = cdiv(pixels, chunk), tuple(_columns(size * size * c) for size in sizes)
    programs = [cdiv(size * size * c, block) for size, block in zip(sizes, blocks, strict=True)]
    starts = tuple(sum(programs[:i]) for i in range(len(sizes) + 1))
    parts = x.new_empty((chunks + total, length), dtype=torch.float32)
    bias_parts = parts.new_empty(chunks + total)
    convolutions = {"C": c, "SIZES": sizes, "FIRSTS": firsts, "WINDOW": window, "CHUNK": chunk, "BLOCKS": blocks}
    with on_device_of(x):
        *sort, bounds, mean = _sorted(image, argmax, dm, total, window)
        segments_kernel[(chunks, starts[-1])](
            image, *sort, bounds, parts, bias_parts, h, w, STARTS=starts, **convolutions
        )
        finish_kernel[(total, max(programs))](
            parts, bias_parts, bounds, mean, tuple(dweights), tuple(dbiases), _strides(dweights), BLOCK_S=8,
            **convolutions,
        )  # fmt: skip
    return dweights, dbiases


def _columns(length: int) -> int:
    """Of a window of `length` numbers that a program takes at a time."""
    return min((256, 128), key=lambda block: cdiv(length, block) * block)


def _sorted(image: Tensor, argmax: Tensor, dm: Tensor, total: int, window: int) -> tuple[Tensor, ...]:
    """Pixels in the order of their channel: number, row, column, channel, gradient; and where each channel begins.

    And, because one launch does both, what all channels' gradients have in common: [window * window * C + 1].
    """
    (c, h, w), pixels, taps = image.shape[1:], argmax.numel(), window * window
    index = torch.int32 if pixels < 2**31 else torch.int64
    blocks, bins = cdiv(pixels, SORTED), next_power_of_2(total + 1)
    splits, pitch = min(CORRELATIONS, cdiv(pixels, 4 * CORRELATED)), taps * c + 8  # whole vectors
    counts, totals = argmax.new_empty(total * blocks, dtype=index), argmax.new_empty(total, dtype=index)
    parts = image.new_empty((splits, pitch), dtype=torch.float32)
    mean = parts.new_empty(taps * c + 1)
    pixel, bounds = argmax.new_empty(pixels, dtype=index), argmax.new_empty(total + 1, dtype=index)
    row, column, channel, gain = (argmax.new_empty(pixels, dtype=t) for t in [torch.int32] * 3 + [torch.float32])
    wide = image.dtype == torch.float32
    block = min(64 if wide else 128, max(16, next_power_of_2(c)))
    count_kernel[(blocks,)](argmax, counts, pixels, blocks, TOTAL=total, BINS=bins, BLOCK=SORTED, num_warps=1)
    correlate_kernel[(cdiv(taps, 64), cdiv(c, block), splits)](
        image, dm, parts, pixels, h, w, C=c, WINDOW=window, PITCH=pitch, PRECISION=_precision(image),
        BLOCK_T=64, BLOCK_P=CORRELATED, BLOCK_C=block, num_warps=8 if wide else 4, num_stages=2,
    )  # fmt: skip
    offsets_kernel[(total + cdiv(taps * c + 1, 32),)](
        counts, totals, parts, mean, blocks, splits, TOTAL=total, LENGTH=taps * c, PITCH=pitch, COLUMNS=32, ROWS=32,
        BLOCK=min(4096, next_power_of_2(blocks)),
    )  # fmt: skip
    sort_kernel[(blocks,)](
        argmax, dm, counts, totals, bounds, pixel, row, column, channel, gain, pixels, blocks, h, w,
        TOTAL=total, BINS=bins, BLOCK=SORTED, num_warps=2,
    )  # fmt: skip
    return pixel, row, column, channel, gain, bounds, mean
