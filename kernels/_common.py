"""What the Triton kernels share: the device they launch on, sizes of tiles, and the layout they work in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
import triton.language as tl
from torch import Tensor

TYPES = {
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}
# What a thread block's threads hold of one tensor; larger tiles leave registers for too few blocks.
TILE = 2048


@triton.jit
def zeros(COUNT: tl.constexpr, SHAPE: tl.constexpr, ACC: tl.constexpr):
    """COUNT blocks of zeros, for sums that a loop carries."""
    blocks = ()
    for _ in tl.static_range(COUNT):
        blocks = blocks + (tl.zeros(SHAPE, dtype=ACC),)  # noqa: RUF005
    return blocks


def on_device_of(t: Tensor) -> AbstractContextManager[object]:
    """Launches inside go to t's GPU and to torch's current stream there, whichever GPU is current outside.

    With one GPU there is nothing to do, nor with none, where kernels are interpreted or only compiled.
    """
    if t.is_cuda and torch.cuda.device_count() > 1:
        return torch.cuda.device(t.device)
    return nullcontext()


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def next_power_of_2(n: int) -> int:
    """The smallest power of two that is not below n >= 1."""
    return 1 << (n - 1).bit_length()


def channels_last(t: Tensor) -> Tensor:
    """t [N, C, H, W] with the channels of a pixel beside each other and no gaps: memory [N*H*W, C]."""
    return t.contiguous(memory_format=torch.channels_last)


def memory_format(t: Tensor) -> torch.memory_format:
    """The layout of what an operator makes beside t [N, C, H, W]: memory_format's in aminet_fast/ops/_library.py."""
    return torch.channels_last if t.stride(1) == 1 else torch.contiguous_format


def empty_as(t: Tensor) -> Tensor:
    """Room for a tensor like t [N, C, H, W], in the layout that an operator gives it."""
    return torch.empty_like(t.contiguous(memory_format=memory_format(t)))


def accumulator(t: Tensor) -> torch.dtype:
    """The dtype of sums: float32, but float64 for float64."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def refuse_float64(operator: str, *tensors: Tensor) -> None:
    """TypeError for an operator whose Triton kernels have no float64."""
    if any(t.dtype == torch.float64 for t in tensors):
        raise TypeError(f"{operator}: its Triton kernels have no float64: pass backend='reference'")


def dot_precision() -> str:
    """tl.dot's input_precision for float32: as torch's own matrix products have it."""
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def all_registers() -> dict[str, int]:
    """For a launch: ptxas may give a thread all registers, where by itself it would rather spill. AMD has no such."""
    return {} if torch.version.hip else {"maxnreg": 255}


def all_registers_before_3_7() -> dict[str, int]:
    """all_registers where only the ptxas that Triton 3.6 brings spills, which would cost newer ones a block."""
    return all_registers() if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 7) else {}


def row_tile(channels: int, most: int = TILE) -> tuple[int, int]:
    """(rows, width) of a tile of [pixels, channels]: powers of two, rows * width <= most where the width allows it.

    At one or two channels there are fewer, because what is kept for each row then takes as many registers as the tile.
    """
    width = next_power_of_2(channels)
    return max(1, most // max(width, 4)), width


def warps(elements: int, each: int = 16) -> int:
    """Warps of 32 for a tile, of `each` elements a thread: 1, 2, 4, 8 or 16."""
    return min(16, max(1, next_power_of_2(elements) // (32 * each)))
