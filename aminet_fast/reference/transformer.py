"""What the paper compares with: Restormer's feed-forward net (Table III) and transformer block (Table II)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .attention import SelfAttention
from .config import AMINetConfig
from .norm import LayerNorm2d


class FeedForward(nn.Module):
    """Restormer's gated depthwise feed-forward net (GDFN), without biases: [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, expansion: float) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.expand = nn.Conv2d(channels, 2 * hidden, 1, bias=False)
        self.dw = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.reduce = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.dw(self.expand(x)).chunk(2, 1)
        return self.reduce(F.gelu(gate) * value)


class StackedFeedForward(nn.Module):
    """The feed-forward nets, each with its residual, that take RDFE's place with its parameter count (Table III)."""

    def __init__(self, channels: int, expansion: float, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FeedForward(channels, expansion) for _ in range(depth))

    def forward(self, y: Tensor) -> Tensor:
        for layer in self.layers:
            y = y + layer(y)
        return y


class TransformerBlock(nn.Module):
    """x + SA(LN(x)), then x + FFN(LN(x)): Restormer's block (Fig. 4 left)."""

    def __init__(self, channels: int, heads: int, config: AMINetConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(channels)
        self.sa = SelfAttention(channels, heads, config.attention_scale)
        self.norm2 = LayerNorm2d(channels)
        self.ffn = FeedForward(channels, config.ffn_expansion)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.sa(self.norm1(x))
        return x + self.ffn(self.norm2(x))
