"""Options of ``aminet evaluate``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..data import DataConfig
from ..network.inference import Ensemble, check_ensemble


@dataclass
class EvaluateConfig:
    """Scores of a network on faces, beside bicubic's.

    Args:
        weights: run folder, pretrained folder, .safetensors file or checkpoint; bicubic (or nothing) scores
            bicubic alone.
        data: the faces.
        split: which part of them; auto takes the test split where the set has one, else every picture.
        protocol: fsr truncates pictures and luma to 8 bits as the papers' scripts do, exact rounds the
            picture and keeps the luma's fractions, both prints both.
        metrics: which scores, joined by commas: psnr, ssim, vif (steerable pyramid), vifp (pixels), lpips, fid.
        lpips_weights: AlexNet's weights for lpips, alexnet-owt-7be5be79.pth; without it, that file in torch.hub's
            cache. Nothing is downloaded.
        inception_weights: Inception's weights for fid, weights-inception-2015-12-05-6726825d.pth; without it, that
            file in torch.hub's cache. Nothing is downloaded.
        confidence: of the intervals beside the means, by a bootstrap over pictures; 0 leaves them out.
        resamples: how often the bootstrap draws the pictures anew.
        batch_size: pictures at a time.
        device: auto, cpu, cuda, cuda:1, ...
        backend: what runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without
            it, AMINET_FAST_BACKEND, else auto.
        out: folder for scores_<protocol>.csv (one row a picture) and summary.json.
        save_images: also write the restored pictures to <out>/images.
        precision: fp32, or bf16 by autocast.
        ensemble: flip averages the network's results for each picture and for its mirror image, in twice the time; the
            scores say so.
        workers: processes that prepare pictures; 0 does it in this one.
    """

    weights: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    protocol: Literal["fsr", "exact", "both"] = "fsr"
    metrics: str | list[str] = "psnr,ssim"
    lpips_weights: str | None = None
    inception_weights: str | None = None
    confidence: float = 0.95
    resamples: int = 10_000
    batch_size: int = 8
    device: str = "auto"
    backend: str | None = None
    out: str | None = None
    save_images: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    ensemble: Ensemble = "none"
    workers: int = 0


def check_config(config: EvaluateConfig) -> None:
    """Raises ValueError for settings that no set of faces and no network could make good."""
    if config.save_images and config.out is None:
        raise ValueError("save_images needs a folder for them: --out DIR")
    if config.batch_size < 1:
        raise ValueError(f"batch_size is {config.batch_size}, wanted at least 1")
    check_ensemble(config.ensemble)
    if not 0.0 <= config.confidence < 1.0:
        raise ValueError(f"confidence is {config.confidence}, wanted 0 (no intervals) or a part of 1 such as 0.95")
    if config.resamples < 1:
        raise ValueError(f"resamples is {config.resamples}, wanted at least 1 (--confidence 0 for no intervals)")
