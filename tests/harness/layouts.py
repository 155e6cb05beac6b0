"""The ways of storing a [N, C, H, W] tensor that every operator must take."""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = ["contiguous", "channels_last", "transposed", "sliced", "channels_last_sliced"]


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values as x, stored otherwise; gaps between the elements hold NaN."""
    n, c, h, w = x.shape
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "sliced":
        wide = torch.full((n, c + 2, h, 2 * w), torch.nan, dtype=x.dtype)
        wide[:, 1:-1, :, ::2] = x
        return wide[:, 1:-1, :, ::2]
    if layout == "channels_last_sliced":
        wide = torch.full((n, h, w, c + 3), torch.nan, dtype=x.dtype)
        wide[..., :c] = x.permute(0, 2, 3, 1)
        return wide[..., :c].permute(0, 3, 1, 2)
    return x.contiguous()
