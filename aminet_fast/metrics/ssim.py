"""Structural similarity on the luma channel (Wang et al., 2004), with a Gaussian window.

torchmetrics 1.9 averages over the reflected border too and so differs from scikit-image in the third digit,
hence these few lines.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .luma import luma_pair

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = (0.01 * 255.0) ** 2, (0.03 * 255.0) ** 2


def ssim(sr: Tensor, hr: Tensor, protocol: str = "fsr") -> Tensor:
    """SSIM of each picture: Gaussian window 11x11, sigma 1.5, population covariance, data range 255.

    Equals ``skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=255)`` on the lumas: the mean over the positions where the whole
    window lies inside the picture.

    Args:
        sr: [N, 3, H, W] floating-point pictures in [-1, 1], H and W at least 11.
        hr: the originals, of the same shape.
        protocol: ``"fsr"`` or ``"exact"``, see :func:`aminet_fast.metrics.luma`.

    Returns:
        [N] float64, at most 1.

    Raises:
        TypeError: a picture is not a floating-point tensor.
        ValueError: the shapes differ, are not [N, 3, H, W] or are smaller than the window; unknown protocol.
    """
    a, b = luma_pair(sr, hr, protocol)
    if min(a.shape[-2:]) < _WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {_WINDOW}x{_WINDOW} pixels, got {a.shape[-2]}x{a.shape[-1]}")
    n = a.shape[0]
    moments = _blur(torch.cat((a, b, a * a, b * b, a * b)))  # [5N, 1, H-10, W-10]
    mean_a, mean_b, aa, bb, ab = moments.split(n)
    var_a, var_b, cov = aa - mean_a * mean_a, bb - mean_b * mean_b, ab - mean_a * mean_b
    top = (2 * mean_a * mean_b + _C1) * (2 * cov + _C2)
    bottom = (mean_a.square() + mean_b.square() + _C1) * (var_a + var_b + _C2)
    return (top / bottom).flatten(1).mean(dim=1)


def _blur(x: Tensor) -> Tensor:
    """Weighs x [M, 1, H, W] with the Gaussian, rows then columns, where the whole window fits."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / _SIGMA).square())
    taps = taps / taps.sum()
    rows = F.conv2d(x, taps.view(1, 1, -1, 1))
    return F.conv2d(rows, taps.view(1, 1, 1, -1))
