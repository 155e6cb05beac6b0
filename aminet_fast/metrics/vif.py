"""Visual information fidelity (Sheikh and Bovik, 2006): on the steerable pyramid, and the cheaper one on pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..output.extras import missing
from .luma import grey_pair
from .steerable import oriented_bands

_LEVELS = 4
_BLOCK = 3  # sides of the blocks whose coefficients are one vector of the model
_NOISE = 0.1  # variance of the visual noise, on the scale 0..255
_TINY = 1e-15
_FLOOR = 1e-4  # added to the information of each band
_FLAT = 1e-6  # levels between the darkest and the brightest pixel of a picture of one grey
_SMALLEST, _SMALLEST_PIXEL = 72, 41


def vif(sr: Tensor, hr: Tensor, protocol: str = "fsr") -> Tensor:
    """VIF of each picture on the steerable pyramid: the information about hr that is left in sr, over what hr holds.

    Equals ``vif(hr, sr)`` of ``vif_utils.py`` (github.com/abhinaukumar/vif as WFEN's repository carries it), which
    builds the pyramid by pyrtools: 4 levels, order 5, edges mirrored, 2 of the 6 orientations, blocks 3x3, visual
    noise 0.1. The script reads grey pictures by Pillow's ``convert("L")``, so this takes that grey and not the
    luma of PSNR and SSIM.

    Args:
        sr: [N, 3, H, W] floating-point pictures in [-1, 1], H and W at least 72.
        hr: the originals, of the same shape.
        protocol: ``"fsr"`` or ``"exact"``, see :func:`aminet_fast.metrics.grey`.

    Returns:
        [N] float64 on sr's device, not negative: 1 for identical pictures, more than 1 where the contrast of sr is
        stronger than the original's. An original of one grey has nothing to lose: every picture scores 1 against
        it. NaN where a picture holds a NaN.

    Raises:
        TypeError: a picture is not a floating-point tensor.
        ValueError: the shapes differ, are not [N, 3, H, W] or are smaller than the pyramid; unknown protocol.
    """
    a, b = grey_pair(sr, hr, protocol)
    _check_size(a, _SMALLEST, "VIF")
    broken = (a.isnan() | b.isnan()).flatten(1).any(dim=1)  # [N]; eigenvalues of NaN are an error, not a NaN
    n = a.shape[0]
    kept = torch.full((n,), 2 * _LEVELS * _FLOOR, dtype=a.dtype, device=a.device)
    whole = kept.clone()
    bands = oriented_bands(torch.cat((a, b)).nan_to_num(0.0), _LEVELS)
    for level, band in enumerate(bands):
        x, y = band[n:].flatten(0, 1).unsqueeze(1), band[:n].flatten(0, 1).unsqueeze(1)  # [2N, 1, h, w] each
        top, bottom = _information(x, y, window=2 ** (_LEVELS - level) + 1)
        kept += top.view(n, 2).sum(dim=1)
        whole += bottom.view(n, 2).sum(dim=1)
    return (kept / whole).masked_fill(broken, float("nan"))


def vifp(sr: Tensor, hr: Tensor, protocol: str = "fsr") -> Tensor:
    """VIF-P of each picture, VIF in the pixel domain with visual noise 2: torchmetrics' on the grey of :func:`vif`.

    It is another number than :func:`vif`, and the two are not to be compared.

    Args:
        sr: [N, 3, H, W] floating-point pictures in [-1, 1], H and W at least 41.
        hr: the originals, of the same shape.
        protocol: ``"fsr"`` or ``"exact"``, see :func:`aminet_fast.metrics.grey`.

    Returns:
        [N] float64 on sr's device. NaN where a picture holds a NaN, and where the original is of one grey: it
        holds no information to divide by.

    Raises:
        ImportError: torchmetrics is not installed.
        TypeError: a picture is not a floating-point tensor.
        ValueError: the shapes differ, are not [N, 3, H, W] or are too small; unknown protocol.
    """
    visual_information_fidelity = torchmetrics_vif()
    a, b = grey_pair(sr, hr, protocol)
    _check_size(a, _SMALLEST_PIXEL, "VIF-P")
    # One by one: torchmetrics before 1.9 gives the mean of a batch only.
    values = [visual_information_fidelity(a[i : i + 1], b[i : i + 1]) for i in range(a.shape[0])]
    scores = torch.stack(values).view(-1) if values else a.new_zeros(0)
    # Rounding leaves some of these originals a variance, and with it a number that says nothing.
    flat = (b.amax(dim=(1, 2, 3)) - b.amin(dim=(1, 2, 3))) < _FLAT  # [N]
    return scores.masked_fill(flat, float("nan"))


def torchmetrics_vif() -> Callable[[Tensor, Tensor], Tensor]:
    """The function behind :func:`vifp`; raises ImportError naming the extra where torchmetrics is not installed."""
    try:
        from torchmetrics.functional.image import visual_information_fidelity  # takes seconds, and few want VIF-P
    except ImportError as error:
        raise missing("metrics", f"VIF-P needs package torchmetrics ({error})") from error
    return visual_information_fidelity


def _information(x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """What y keeps of x's information and what there is, means over the blocks; x, y [M, 1, h, w], results [M]."""
    height, width = (side // _BLOCK * _BLOCK for side in x.shape[-2:])
    x, y = x[..., :height, :width], y[..., :height, :width]
    gain, noise = _channel(x, y, window)
    strength, eigenvalues = _mixture(x)
    # The outer blocks, whose windows reach over the edge, do not count.
    cut = -(-(window // 2) // _BLOCK)
    gain, noise, strength = (t[:, None, cut:-cut, cut:-cut] for t in (gain, noise, strength))  # [M, 1, h', w']
    signal = strength * eigenvalues[:, :, None, None]  # [M, 9, h', w']
    kept = torch.log1p(gain.square() * signal / (noise + _NOISE))
    whole = torch.log1p(signal / _NOISE)
    return kept.mean(dim=(2, 3)).sum(dim=1), whole.mean(dim=(2, 3)).sum(dim=1)


def _channel(x: Tensor, y: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Gain and noise variance of ``y = gain * x + noise`` around each block: [M, h / 3, w / 3] each."""
    pad = (window - _BLOCK) // 2
    x, y = (F.pad(t, (pad,) * 4, mode="reflect") for t in (x, y))
    moments = F.avg_pool2d(torch.cat((x, y, x * x, y * y, x * y), dim=1), window, stride=_BLOCK)  # [M, 5, h/3, w/3]
    mean_x, mean_y, xx, yy, xy = moments.unbind(dim=1)
    var_x, var_y = (xx - mean_x.square()).clamp_min(0.0), (yy - mean_y.square()).clamp_min(0.0)
    cov = xy - mean_x * mean_y
    gain = (cov / (var_x + _TINY)).clamp_min(0.0)  # of a reversed band nothing is kept, whatever its noise
    return gain, (var_y - gain * cov).clamp_min(_TINY)


def _mixture(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian scale mixture of x's blocks: strengths [M, h / 3, w / 3], eigenvalues of their covariance [M, 9]."""
    vectors = F.unfold(x, _BLOCK)  # [M, 9, every position]
    centred = vectors - vectors.mean(dim=2, keepdim=True)
    covariance = centred @ centred.mT / (vectors.shape[2] - 1)
    eigenvalues, axes = torch.linalg.eigh(covariance)
    eigenvalues = eigenvalues.clamp_min(_TINY)
    blocks = axes.mT @ F.unfold(x, _BLOCK, stride=_BLOCK)  # [M, 9, blocks], along the axes
    strength = (blocks.square() / eigenvalues.unsqueeze(2)).mean(dim=1)
    return strength.view(x.shape[0], x.shape[-2] // _BLOCK, x.shape[-1] // _BLOCK), eigenvalues


def _check_size(x: Tensor, smallest: int, name: str) -> None:
    height, width = x.shape[-2:]
    if min(height, width) < smallest:
        raise ValueError(f"{name} needs pictures of at least {smallest}x{smallest} pixels, got {height}x{width}")
