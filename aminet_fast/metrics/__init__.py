"""Picture quality on the luma channel, batched in torch: PSNR and SSIM under two named protocols.

``PROTOCOLS`` is ``("fsr", "exact")``; :func:`luma` says exactly what each one does.
"""

from __future__ import annotations

from aminet_fast.metrics.luma import PROTOCOLS, luma, quantise
from aminet_fast.metrics.psnr import mean_psnr, psnr
from aminet_fast.metrics.ssim import ssim

__all__ = ["PROTOCOLS", "luma", "mean_psnr", "psnr", "quantise", "ssim"]
