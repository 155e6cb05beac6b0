"""Picture quality, batched in torch, under two named protocols.

``PROTOCOLS`` is ``("fsr", "exact")``; :func:`luma` says exactly what each one does. PSNR and SSIM are taken on that
luma, VIF and VIF-P on :func:`grey`, LPIPS and FID on the 8-bit RGB pictures.
"""

from __future__ import annotations

from aminet_fast.metrics.fid import InceptionFeatures, fid
from aminet_fast.metrics.lpips import Lpips
from aminet_fast.metrics.luma import PROTOCOLS, grey, luma, quantise
from aminet_fast.metrics.metric_set import METRICS, MetricSet, load_metrics
from aminet_fast.metrics.psnr import mean_psnr, psnr
from aminet_fast.metrics.ssim import ssim
from aminet_fast.metrics.vif import vif, vifp

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
