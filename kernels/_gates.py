"""What the two gates share: where the pixels of a run lie, and room for results."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._common import empty_as, next_power_of_2

PIECE_BYTES = 8192  # of one tensor that a program holds at a time: four vectors of 16 bytes a thread
PIECE_PIXELS = 512  # at most: four a thread
PROGRAMS = 1024  # at most, of the sums over all pixels; with the shape it fixes their order


@triton.jit
def located(first, height, width, PIXELS: tl.constexpr):
    """Of the pixels from `first` (int64) on, which may run through several images.

    The first one's image (int64); and of each one how many images further it lies, its row and its column (int32).
    """
    area = height * width
    image = first // area
    i = (first - image * area).to(tl.int32) + tl.arange(0, PIXELS)
    further = i // area
    pixel = i - further * area
    y = pixel // width
    return image, further, y, pixel - y * width


def piece_of(t: Tensor) -> tuple[int, int]:
    """Pixels and channels of t [N, C, H, W] that a program holds at a time, powers of two.

    Fewer where a row is no whole vectors of 16 bytes, or is very long: addresses, or sums over a row, take registers.
    """
    c, size = t.shape[1], t.element_size()
    channels = next_power_of_2(c)
    elements = PIECE_BYTES // size if c * size % 16 == 0 and channels <= 512 else 1024
    return max(1, min(PIECE_PIXELS, elements // channels)), channels


class Result:
    """Room for a result like t [N, C, H, W] in the layout that the operator gives it; kernels write to `pixels`."""

    def __init__(self, t: Tensor) -> None:
        self.given = empty_as(t)
        plain = self.given.is_contiguous(memory_format=torch.channels_last)
        self.pixels = self.given if plain else torch.empty_like(self.given, memory_format=torch.channels_last)

    def finished(self) -> Tensor:
        return self.given if self.pixels is self.given else self.given.copy_(self.pixels)
