"""EDFF, the encoder and decoder feature fusion module (Section III-C, Eq. 16-17)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import AMINetConfig
from .skaf import SKAF


class EDFF(nn.Module):
    """Encoder and decoder features, weighed by SKAF and added: two [N, C, H, W] -> [N, C, H, W]."""

    def __init__(self, channels: int, config: AMINetConfig) -> None:
        super().__init__()
        self.weigh = config.skaf != "none"
        if self.weigh:
            self.reduce = nn.Conv2d(2 * channels, channels, 1)
            self.skaf = SKAF(channels, config)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        if not self.weigh:
            return encoder + decoder
        w1, w2 = self.skaf(self.reduce(torch.cat([encoder, decoder], 1)))  # Eq. 16
        return encoder * w1 + decoder * w2  # Eq. 17
