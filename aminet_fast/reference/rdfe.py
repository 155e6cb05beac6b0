"""RDFE, the residual depth feature extraction module (Section III-B2, Eq. 7-11)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import AMINetConfig
from .frm import reflect_pad


def attention_unit_ref(
    f: Tensor, reduce_weight: Tensor, reduce_bias: Tensor, expand_weight: Tensor, expand_bias: Tensor
) -> Tensor:
    """F_au of Eq. 8 with one vector an image: sigmoid(expand(relu(reduce(mean over the pixels)))).

    f [N, B*C, H, W], reduce [hidden, B*C, 1, 1] and [hidden], expand [C, hidden, 1, 1] and [C] -> [N, C, 1, 1].
    """
    hidden = F.relu(F.conv2d(f.mean((2, 3), keepdim=True), reduce_weight, reduce_bias))
    return F.conv2d(hidden, expand_weight, expand_bias).sigmoid()


def multiscale_dwconv_ref(
    x: Tensor | Sequence[Tensor],
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    scale: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Depthwise convolutions of several odd sizes, of one input or of one each, times `scale` (Eq. 7, 9, 10).

    x [N, C, H, W] or one for each branch, weights [C, 1, K, K], biases [C], scale [N, C, 1, 1] -> [N, C, H, W] each.
    """
    images = [x] * len(weights) if isinstance(x, Tensor) else x
    if scale is not None:
        images = [image * scale for image in images]  # Eq. 9
    branches = zip(images, weights, biases, strict=True)
    return tuple(F.conv2d(f, w, b, padding=w.shape[-1] // 2, groups=w.shape[0]) for f, w, b in branches)


def rdfe_front_ref(
    y: Tensor,
    dw1_weights: Sequence[Tensor],
    dw1_biases: Sequence[Tensor],
    reduce_weight: Tensor,
    reduce_bias: Tensor,
    expand_weight: Tensor,
    expand_bias: Tensor,
    dw2_weights: Sequence[Tensor],
    dw2_biases: Sequence[Tensor],
    fuse_weight: Tensor,
    fuse_bias: Tensor,
) -> Tensor:
    """RDFE's front (Eq. 7-10): [N, C, H, W] -> [N, C, H, W].

    dw1 and dw2 have a [C, 1, K, K] and a [C] for each branch, reduce and expand are the attention unit's, fuse_weight
    is [C, B*C, 1, 1].
    """
    f = multiscale_dwconv_ref(y, dw1_weights, dw1_biases)  # Eq. 7
    a = attention_unit_ref(torch.cat(f, 1), reduce_weight, reduce_bias, expand_weight, expand_bias)  # Eq. 8
    f = multiscale_dwconv_ref(f, dw2_weights, dw2_biases, a)  # Eq. 9, and Eq. 10's depthwise convolutions
    return F.conv2d(torch.cat(f, 1), fuse_weight, fuse_bias) + y  # Eq. 10


def depthwise(channels: int, kernel: int) -> nn.Conv2d:
    """A KxK convolution of each channel with itself, same size, with bias."""
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)


def parameters(branches: nn.ModuleList) -> tuple[list[Tensor], list[Tensor | None]]:
    """Weights and biases of convolutions, as `multiscale_dwconv_ref` takes them."""
    convs = cast("Sequence[nn.Conv2d]", branches)
    return [conv.weight for conv in convs], [conv.bias for conv in convs]


class AttentionUnit(nn.Module):
    """F_au of Eq. 8: the weights that all branches share, from all of them.

    [N, B*C, H, W] -> [N, C, 1, 1] ("pooled") or [N, C, H, W] ("pixel"), in (0, 1).
    """

    def __init__(self, channels: int, branches: int, kind: str = "pooled") -> None:
        super().__init__()
        self.kind = kind
        if kind == "pooled":
            hidden = max(channels // 4, 1)
            self.reduce = nn.Conv2d(branches * channels, hidden, 1)
            self.expand = nn.Conv2d(hidden, channels, 1)
        else:
            self.reduce = nn.Conv2d(branches * channels, channels, 1)

    def forward(self, f: Tensor) -> Tensor:
        if self.kind == "pixel":
            return self.reduce(f).sigmoid()
        return self.expand(F.relu(self.reduce(f.mean((2, 3), keepdim=True)))).sigmoid()


class ReflectConv(nn.Module):
    """Reflection pad and a 3x3 convolution without bias, then BN and LeakyReLU(0.2): the hourglass's layer."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, 3, stride=stride, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(self.conv(reflect_pad(x))), 0.2)


class Hourglass(nn.Module):
    """x times a one-channel map in (0, 1) that an hourglass draws from it: [N, C, H, W] -> [N, C, H, W].

    The spatial attention of SPARNet's facial attention unit. Level d of `depth` halves d times; H and W must be
    divisible by 2^depth.
    """

    def __init__(self, channels: int, width: int, depth: int = 1) -> None:
        super().__init__()
        self.depth = depth
        c_in = [channels] + [width] * (depth - 1)
        self.b1 = nn.ModuleList(ReflectConv(c, width) for c in c_in)
        self.b2 = nn.ModuleList(ReflectConv(c, width, stride=2) for c in c_in)
        self.plus = ReflectConv(width, width)
        self.b3 = nn.ModuleList(ReflectConv(width, width) for _ in c_in)
        self.out = nn.Conv2d(width, 1, 3)

    def level(self, x: Tensor, i: int) -> Tensor:
        low = self.b2[i](x)
        low = self.level(low, i + 1) if i + 1 < self.depth else self.plus(low)
        return self.b1[i](x) + self.b3[i](F.interpolate(low, scale_factor=2.0, mode="nearest"))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.out(reflect_pad(self.level(x, 0))).sigmoid()


class FeatureRefinement(nn.Module):
    """FRM of Eq. 11: BN, LReLU, 3x3 convolution, as often as `convs` says, BN, then the hourglass; no biases."""

    def __init__(self, channels: int, config: AMINetConfig) -> None:
        super().__init__()
        convs = config.frm_convs
        self.bn = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(convs + 1))
        self.conv = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(convs))
        self.hourglass = Hourglass(channels, config.hourglass_width, config.hourglass_depth)

    def forward(self, z: Tensor) -> Tensor:
        for bn, conv in zip(self.bn, self.conv, strict=False):
            z = conv(F.leaky_relu(bn(z), 0.2))
        return self.hourglass(self.bn[-1](z))


class RDFE(nn.Module):
    """Depthwise branches of several sizes, weighed by one attention unit, filtered again, fused, refined.

    [N, C, H, W] -> [N, C, H, W].
    """

    def __init__(self, channels: int, config: AMINetConfig) -> None:
        super().__init__()
        kernels = config.rdfe_kernels
        self.dw1 = nn.ModuleList(depthwise(channels, k) for k in kernels)
        if config.attention_unit != "none":
            self.au = AttentionUnit(channels, len(kernels), config.attention_unit)
        if config.dw_twice:
            self.dw2 = nn.ModuleList(depthwise(channels, k) for k in kernels)
        self.fuse = nn.Conv2d(len(kernels) * channels, channels, 1)
        if config.frm:
            self.frm = FeatureRefinement(channels, config)
        self.config = config

    def front_parameters(self) -> tuple[Any, ...]:
        """What `rdfe_front_ref` takes beside y; for attention_unit="pooled" and dw_twice."""
        reduce, expand, fuse = self.au.reduce, self.au.expand, self.fuse
        unit = (reduce.weight, reduce.bias, expand.weight, expand.bias)
        return *parameters(self.dw1), *unit, *parameters(self.dw2), fuse.weight, fuse.bias

    def front(self, y: Tensor) -> Tensor:
        """Eq. 7-10; `rdfe_front_ref` is the same as a function."""
        f = [dw(y) for dw in self.dw1]  # Eq. 7
        if self.config.attention_unit != "none":
            a = self.au(torch.cat(f, 1))  # Eq. 8, [N, C, 1, 1]
            f = [f_k * a for f_k in f]  # Eq. 9
        if self.config.dw_twice:
            f = [dw(f_k) for dw, f_k in zip(self.dw2, f, strict=True)]
        return self.fuse(torch.cat(f, 1)) + y  # Eq. 10

    def forward(self, y: Tensor) -> Tensor:
        z = self.front(y)
        return z + self.frm(z) if self.config.frm else z  # Eq. 11
