"""Layer normalisation over the channels of each pixel, the LN of LGFI (Section III-B, Fig. 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm2d_ref(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """y[n, :, h, w] = (x - mean) / sqrt(var + eps) * weight + bias, mean and biased variance over the channels.

    x [N, C, H, W], weight [C], bias [C] -> [N, C, H, W].
    """
    return F.layer_norm(x.permute(0, 2, 3, 1), weight.shape, weight, bias, eps).permute(0, 3, 1, 2)


class LayerNorm2d(nn.Module):
    """LN over channels at each pixel: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm2d_ref(x, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"
