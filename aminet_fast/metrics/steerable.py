"""Two orientations of the steerable pyramid of order 5 (Simoncelli and Freeman, ICIP 1995).

The coefficients are ``sp5_filters`` of pyrtools (Copyright (c) 2016 LabForComputationalVision, MIT License); their
symmetries leave one quadrant of each filter to write down.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LOW0 = (
    (0.00341614, -0.01551246, -0.03848215),
    (-0.01551246, 0.05586982, 0.15925570),
    (-0.03848215, 0.15925570, 0.40304148),
)
_LOW = (  # half of it, as pyrtools writes it down
    (0.00085404, -0.00244917, -0.00387812, -0.00944432, -0.00962054),
    (-0.00244917, -0.00523281, -0.00661117, 0.00410600, 0.01002988),
    (-0.00387812, -0.00661117, 0.01396746, 0.03277038, 0.03981393),
    (-0.00944432, 0.00410600, 0.03277038, 0.06426333, 0.08169618),
    (-0.00962054, 0.01002988, 0.03981393, 0.08169618, 0.10096540),
)
_BAND = (  # odd from top to bottom, even from left to right
    (0.00277643, 0.00496194, 0.01026699, 0.01455399),
    (-0.00986904, -0.00893064, 0.01189859, 0.02755155),
    (-0.01021852, -0.03075356, -0.08226445, -0.11732297),
    (0.0, 0.0, 0.0, 0.0),
)


def oriented_bands(x: Tensor, levels: int) -> list[Tensor]:
    """Bands 0 and 3 (the two along the axes) of each level of the pyramid, finest first.

    Equals ``pyrtools.pyramids.SteerablePyramidSpace(image, levels, order=5, edge_type="reflect1")`` with its keys
    ``(level, 0)`` and ``(level, 3)``.

    Args:
        x: [N, 1, H, W] floating point; H and W at least ``9 * 2 ** (levels - 1)``, as in pyrtools.
        levels: number of them; each has half the sides of the one before, rounded up.

    Returns:
        A tensor [N, 2, h, w] a level, of x's dtype.
    """
    low0, low = _even(_LOW0, x), 2.0 * _even(_LOW, x)
    top = torch.tensor(_BAND, dtype=x.dtype, device=x.device)  # [4, 4]
    half = torch.cat((top, -top[:-1].flip(0)))  # [7, 4]
    band = torch.cat((half, half[:, :-1].flip(1)), dim=1)  # [7, 7]
    bank = torch.stack((band.T, -band)).unsqueeze(1)  # [2, 1, 7, 7]
    bands = []
    x = _correlate(x, low0)
    for level in range(levels):
        if level:
            x = _correlate(x, low, stride=2)
        bands.append(_correlate(x, bank))
    return bands


def _even(quadrant: tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The filter [1, 1, K, K] that is even in both directions and has this quadrant."""
    x = torch.tensor(quadrant, dtype=like.dtype, device=like.device)
    x = torch.cat((x, x[:-1].flip(0)))
    return torch.cat((x, x[:, :-1].flip(1)), dim=1)[None, None]


def _correlate(x: Tensor, bank: Tensor, stride: int = 1) -> Tensor:
    """Correlates x [N, 1, H, W] with bank [B, 1, K, K], mirrored about its edge pixels; [N, B, h, w]."""
    pad = bank.shape[-1] // 2
    return F.conv2d(F.pad(x, (pad,) * 4, mode="reflect"), bank, stride=stride)
