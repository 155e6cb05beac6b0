"""SKAF, the selective kernel attention fusion module (Section III-B3, Eq. 12-15)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AMINetConfig


def skaf_features_ref(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> Tensor:
    """Convolutions of several odd sizes, side by side (Eq. 12, 13).

    x [N, C, H, W], weights [C_k, C, k, k], biases [C_k] -> [N, sum of C_k, H, W].
    """
    pairs = zip(weights, biases, strict=True)
    return torch.cat([F.conv2d(x, w, b, padding=w.shape[-1] // 2) for w, b in pairs], 1)


def channel_pool_ref(u: Tensor, pools: Sequence[str] = ("avg", "max")) -> Tensor:
    """Mean and max over the channels (Eq. 14); max is `torch.max`, whose gradient goes to one index, also on ties.

    u [N, C, H, W] -> [N, len(pools), H, W].
    """
    m = [u.mean(1, keepdim=True) if p == "avg" else u.max(1, keepdim=True).values for p in pools]
    return torch.cat(m, 1)


def skaf_descriptor_ref(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """SKAF's descriptor (Eq. 12-14): [N, C, H, W] -> [N, 2, H, W], mean and max over all convolutions' channels."""
    return channel_pool_ref(skaf_features_ref(x, weights, biases))


def skaf_gate_ref(
    m: Tensor,
    weight: Tensor,
    bias: Tensor,
    g: Tensor,
    local: Tensor,
    residual: Tensor | None = None,
) -> Tensor:
    """Two branches weighed by the gates of Eq. 14-15 and added: LGFI's sum with `residual`, EDFF's (Eq. 17) without.

    m [N, 2, H, W], weight [2, 2, K, K] of odd K, bias [2], g, local and residual [N, C, H, W] -> [N, C, H, W].
    """
    w1, w2 = F.conv2d(m, weight, bias, padding=weight.shape[-1] // 2).sigmoid().chunk(2, 1)
    return g * w1 + local * w2 if residual is None else residual + g * w1 + local * w2


class SKAF(nn.Module):
    """Two gates, in (0, 1), for two branches, from their fused features.

    s [N, C, H, W] -> w1, w2, each [N, 1, H, W] with channel pooling (the paper's), [N, C, 1, 1] with spatial pooling,
    [N, C, H, W] without pools.
    """

    def __init__(self, channels: int, config: AMINetConfig) -> None:
        super().__init__()
        c, kernels, kind = channels, config.skaf_kernels, config.skaf_conv
        c_out = c // 2 if kind == "half" else c
        groups = c if kind == "depthwise" else 1
        self.convs = nn.ModuleList(nn.Conv2d(c, c_out, k, padding=k // 2, groups=groups) for k in kernels)
        self.dense = groups == 1
        self.pools = config.skaf_pools
        self.spatial = config.skaf_pool_axis == "spatial"
        self.mixed = config.skaf_mix
        c_u = c_out * len(kernels) if kernels else c
        c_m = len(self.pools) * (c_u if self.spatial else 1)
        # A descriptor that does not split into two gates of the branches' size by itself must be mixed in any case.
        if not self.pools:
            self.mix = nn.Identity() if c_u == 2 * c else nn.Conv2d(c_u, 2 * c, 1)
        elif self.spatial:
            self.mixed = self.mixed or c_u != 2 * c
            self.mix = nn.Conv2d(c_m, 2 * c, 1) if self.mixed else nn.Identity()
        else:
            self.mix = nn.Conv2d(c_m, 2, 7, padding=3) if self.mixed else nn.Identity()

    def pool(self, u: Tensor) -> Tensor:
        """The descriptors of Eq. 14."""
        if self.spatial:
            flat = u.flatten(2)  # [N, 2C, H*W]
            pooled = {"avg": flat.mean(2), "max": flat.max(2).values}
            m = [pooled[p][..., None, None] for p in self.pools]
            return torch.cat(m, 1) if self.mixed else torch.stack(m).sum(0)
        pooled_u = channel_pool_ref(u, self.pools)
        # One map alone, unmixed, is both gates.
        return pooled_u if self.mixed or len(self.pools) == 2 else pooled_u.repeat(1, 2, 1, 1)

    def forward(self, s: Tensor) -> tuple[Tensor, Tensor]:
        u = torch.cat([conv(s) for conv in self.convs], 1) if self.convs else s  # Eq. 12, 13
        m = self.pool(u) if self.pools else u
        w1, w2 = self.mix(m).sigmoid().chunk(2, 1)  # Eq. 14, 15
        return w1, w2
