"""Peak signal-to-noise ratio on the luma channel."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from .luma import luma_pair

_PEAK = 255.0


def psnr(sr: Tensor, hr: Tensor, protocol: str = "fsr") -> Tensor:
    """PSNR of each picture, ``10 log10(255**2 / MSE)`` of the lumas, with no border cropped.

    Args:
        sr: [N, 3, H, W] floating-point pictures in [-1, 1].
        hr: the originals, of the same shape.
        protocol: ``"fsr"`` or ``"exact"``, see :func:`aminet_fast.metrics.luma`.

    Returns:
        [N] float64 in dB; infinity where the two lumas are identical, NaN where a picture holds a NaN.

    Raises:
        TypeError: a picture is not a floating-point tensor.
        ValueError: the shapes differ or are not [N, 3, H, W], or the protocol is unknown.
    """
    a, b = luma_pair(sr, hr, protocol)
    mse = (a - b).square().flatten(1).mean(dim=1)  # [N]
    return 10.0 * (_PEAK**2 / mse).log10()


def mean_psnr(values: Iterable[float]) -> float:
    """Average of per-picture PSNRs, leaving out the infinite ones.

    A single picture that equals its original would make the plain average infinite, and hide all the
    others. They are left out here; whoever reports the average reports their number beside it.

    Args:
        values: PSNR of each picture in dB.

    Returns:
        The average of the finite values and NaNs (a NaN makes it NaN); infinity when every picture is
        identical to its original; NaN when there is none.
    """
    items = [float(v) for v in values]
    kept = [v for v in items if v != float("inf")]
    if not kept:
        return float("inf") if items else float("nan")
    return sum(kept) / len(kept)
