"""LGFI, the local and global feature interaction module (Section III-B, Fig. 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import SelfAttention
from .config import AMINetConfig
from .norm import LayerNorm2d
from .rdfe import RDFE
from .skaf import SKAF
from .transformer import StackedFeedForward


class LGFI(nn.Module):
    """x + g*w1 + local*w2: global g = SA(LN(x)), local = RDFE(LN(x)), gates w1, w2 = SKAF(g + local).

    [N, C, H, W] -> [N, C, H, W]. Where an ablation leaves one branch out, the other keeps its own gate; without SKAF
    the branches are added.
    """

    def __init__(self, channels: int, heads: int, config: AMINetConfig) -> None:
        super().__init__()
        self.norm = LayerNorm2d(channels)
        if config.sa:
            self.sa = SelfAttention(channels, heads, config.attention_scale)
        if config.local == "rdfe":
            self.rdfe: nn.Module = RDFE(channels, config)
        elif config.local == "ffn":
            self.rdfe = StackedFeedForward(channels, config.ffn_expansion, config.ffn_depth)
        self.branches = config.sa + (config.local != "none")
        self.concat = config.lgfi_merge == "concat" and self.branches == 2 and config.skaf == "both"
        if config.skaf == "both":
            self.skaf = SKAF(channels, config)
        if self.concat:
            self.merge = nn.Conv2d(2 * channels, channels, 1)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        g = self.sa(y) if self.config.sa else None
        local = self.rdfe(y) if self.config.local != "none" else None
        parts = [b for b in (g, local) if b is not None]
        if self.config.skaf != "both":
            return x + sum(parts[1:], parts[0])
        s = self.merge(torch.cat(parts, 1)) if self.concat else sum(parts[1:], parts[0])
        w1, w2 = self.skaf(s)
        for branch, gate in ((g, w1), (local, w2)):
            if branch is not None:
                x = x + branch * gate
        return x
