"""Picture quality, batched in torch, under two named protocols.

``PROTOCOLS`` is ``("fsr", "exact")``; :func:`luma` says exactly what each one does. PSNR and SSIM are taken on that
luma, VIF and VIF-P on :func:`grey`, LPIPS and FID on the 8-bit RGB pictures.
"""

from __future__ import annotations

from .fid import InceptionFeatures, fid
from .lpips import Lpips
from .luma import PROTOCOLS, grey, luma, quantise
from .metric_set import METRICS, MetricSet, load_metrics
from .psnr import mean_psnr, psnr
from .ssim import ssim
from .vif import vif, vifp

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "InceptionFeatures",
    "Lpips",
    "MetricSet",
    "fid",
    "grey",
    "load_metrics",
    "luma",
    "mean_psnr",
    "psnr",
    "quantise",
    "ssim",
    "vif",
    "vifp",
]
