"""SA, multi-head self-attention across channels (Section III-B1, Eq. 2-6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """Attention between channels: every channel is a vector of all H*W positions.

    [N, C, H, W] -> [N, C, H, W]. Cost is linear in H*W. No biases anywhere.

    Args:
        channels: C.
        heads: Divides C; each head attends within its own C/heads channels.
        scale: "temperature": q and k L2-normalised over the positions, then times a learned temperature a head
            (Restormer's, on which the paper builds); "sqrt": q k^T / sqrt(H*W), Eq. 5 to the letter.
    """

    def __init__(self, channels: int, heads: int, scale: str = "temperature") -> None:
        super().__init__()
        self.heads = heads
        self.scale = scale
        if scale == "temperature":
            self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.qkv_dw = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=False)
        self.proj = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        temperature = self.temperature if self.scale == "temperature" else None
        return self.proj(attend_ref(self.qkv_dw(self.qkv(x)), temperature, self.heads))  # Eq. 6


def attend_ref(qkv: Tensor, temperature: Tensor | None, heads: int) -> Tensor:
    """Eq. 5; q k^T over the norms and times temperature [heads, 1, 1], or over sqrt(H*W) where that is None.

    qkv [N, 3C, H, W] -> [N, C, H, W].
    """
    n, c, h, w = qkv.shape[0], qkv.shape[1] // 3, *qkv.shape[2:]
    q, k, v = qkv.reshape(n, 3, heads, c // heads, h * w).unbind(1)  # Eq. 2-4; one [N, heads, C/heads, H*W] each
    if temperature is not None:
        attn = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * temperature
    else:
        attn = q @ k.mT / (h * w) ** 0.5
    return (attn.softmax(dim=-1) @ v).reshape(n, c, h, w)


def channel_attention_ref(
    x: Tensor, qkv_weight: Tensor, dw_weight: Tensor, temperature: Tensor | None, proj_weight: Tensor, heads: int
) -> Tensor:
    """`SelfAttention` as a function of its parameters (Eq. 2-6): [N, C, H, W] -> [N, C, H, W]."""
    qkv = F.conv2d(F.conv2d(x, qkv_weight), dw_weight, padding=1, groups=dw_weight.shape[0])
    return F.conv2d(attend_ref(qkv, temperature, heads), proj_weight)
