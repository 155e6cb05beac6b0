"""The network's edges: what torch's own convolutions compute between the modules that have operators.

Those are the head, the tail, the steps down and up, and EDFF's reduction. As in modules.py the very objects are given
another class, so that keys, hooks and optimizers stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import reference
from .casting import autocast_copies, copy_of
from .children import untouched


class FastConv2d(nn.Conv2d):
    """nn.Conv2d that takes its 16-bit weight and bias from the forward pass's one cast, where there is one."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, cast(Tensor, copy_of(weight)), copy_of(bias))


class FastUp(nn.Sequential):
    """Conv1x1, PixelShuffle, PReLU, which on CUDA devices keep channels_last by one copy each way.

    torch's own pixel_shuffle has a channels_last form on the CPU alone; what it gives elsewhere is contiguous, and all
    that follows would copy it again.
    """

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling() or not _is_up(self):  # a slice of it, or longer by now
            return super().forward(x)
        conv, shuffle, act = self
        y = conv(x)
        if untouched(shuffle) or untouched(act):
            return act(shuffle(y))
        y = shuffled(y, cast("nn.PixelShuffle", shuffle).upscale_factor) if y.is_cuda else shuffle(y)
        return F.prelu(y, cast(Tensor, copy_of(cast("nn.PReLU", act).weight)))


def shuffled(x: Tensor, factor: int) -> Tensor:
    """F.pixel_shuffle whose result is channels_last: [N, C * f * f, H, W] -> [N, C, H * f, W * f]."""
    n, c, h, w = x.shape
    c //= factor * factor
    pixels = x.permute(0, 2, 3, 1).unflatten(3, (c, factor, factor))  # a view, and backward as well
    pixels = pixels.permute(0, 1, 4, 2, 5, 3).reshape(n, h * factor, w * factor, c)
    return pixels.permute(0, 3, 1, 2)


def swap_edges(network: reference.AMINet, fast: bool) -> None:
    """Make the edges of this network fast, or plain again."""
    for module in _modules(network):
        if type(module) in (nn.Conv2d, FastConv2d):
            module.__class__ = FastConv2d if fast else nn.Conv2d
    for up in network.up:
        if type(up) is FastUp or (type(up) is nn.Sequential and _is_up(up)):
            up.__class__ = FastUp if fast else nn.Sequential


def edge_copies(network: nn.Module, x: Tensor) -> dict[int, Tensor] | None:
    """`autocast_copies` of the parameters of all edges that take them."""
    if torch.compiler.is_compiling():
        return None
    return autocast_copies(_parameters(cast("reference.AMINet", network)), x)


def _parameters(network: reference.AMINet) -> Iterator[Tensor | None]:
    for module in _modules(network):
        if type(module) is FastConv2d and not module._forward_pre_hooks:  # which may give it another weight
            yield from (module.weight, module.bias)
    for up in network.up:
        if type(up) is FastUp and type(up[-1]) is nn.PReLU:
            yield up[-1].weight


def _modules(network: reference.AMINet) -> Iterator[nn.Module]:
    reductions = (edff.reduce for edff in network.edff if isinstance(getattr(edff, "reduce", None), nn.Module))
    for part in (network.head, *network.down, *network.up, *reductions, network.tail):
        yield from cast("nn.Module", part).modules()


def _is_up(up: nn.Sequential) -> bool:
    return [type(part) for part in up] in ([kind, nn.PixelShuffle, nn.PReLU] for kind in (nn.Conv2d, FastConv2d))
