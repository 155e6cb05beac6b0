"""Fréchet inception distance (Heusel et al., 2017) by torch-fidelity, with Inception's weights from a file."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..output.extras import missing
from .luma import quantise
from .weights import INCEPTION, describe, find_weights, read_weights, wrong_weights

FEATURES = 2048  # fewer pictures than this leave the covariance of the features without full rank


class InceptionFeatures:
    """The 2048 features of pictures that FID compares.

    Args:
        weights: Inception's, weights-inception-2015-12-05-6726825d.pth of torch-fidelity (pytorch-fid's
            pt_inception-2015-12-05-6726825d.pth bears the same SHA-256 in its name); without it, either in
            torch.hub's cache.
        device: where it runs.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: the weights are not on this disk; nothing is downloaded.
        ValueError: the file holds something else.
    """

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise missing("fid", f"FID needs package torch-fidelity ({error})") from error
        path = find_weights(INCEPTION, weights)
        # torch-fidelity unpickles whatever the file holds, so it only gets a file of tensors.
        read_weights(path, INCEPTION)
        try:
            with torch.random.fork_rng(devices=[]):  # of the random start, which the file overwrites
                network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", [str(FEATURES)], feature_extractor_weights_path=str(path)
                )
        except RuntimeError as error:
            raise wrong_weights(path, INCEPTION, " ".join(str(error).split())[:80]) from error
        self.network = network.to(device)
        self.device = torch.device(device)
        self.weights = describe(path, INCEPTION)

    @torch.no_grad()
    def __call__(self, pictures: Tensor, protocol: str = "fsr") -> Tensor:
        """Features of the 8-bit RGB pictures that the protocol compares.

        Args:
            pictures: [N, 3, H, W] floating-point pictures in [-1, 1].
            protocol: ``"fsr"`` or ``"exact"``, see :func:`aminet_fast.metrics.quantise`.

        Returns:
            [N, 2048] float32 on the CPU; a row of NaN for a picture that holds a NaN.

        Raises:
            TypeError: the pictures are not a floating-point tensor.
            ValueError: they are not [N, 3, H, W], or the protocol is unknown.
        """
        levels = quantise(pictures, protocol)
        if levels.dim() != 4 or levels.shape[1] != 3:
            raise ValueError(f"FID takes RGB pictures [N, 3, H, W], got shape {tuple(levels.shape)}")
        broken = levels.isnan().flatten(1).any(dim=1)  # [N]
        (features,) = self.network(levels.nan_to_num(0.0).to(torch.uint8).to(self.device))
        return features.float().cpu().masked_fill(broken.cpu().unsqueeze(1), float("nan"))


def fid(features: Tensor, originals: Tensor) -> float:
    """Distance between two sets of pictures, from their features.

    Args:
        features: [N, F] floating point, of the pictures.
        originals: [M, F], of the originals.

    Returns:
        The distance, 0 or (by rounding) near it for equal sets; NaN when a feature is NaN. It is biased upwards by
        small sets: below 2048 pictures the covariances do not even have full rank, and sets of different sizes
        cannot be compared.

    Raises:
        ImportError: torch-fidelity is not installed.
        ValueError: a set has fewer than 2 pictures.
    """
    try:
        from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
    except ImportError as error:
        raise missing("fid", f"FID needs package torch-fidelity ({error})") from error

    if min(len(features), len(originals)) < 2:
        raise ValueError(f"FID needs at least 2 pictures a set, got {len(features)} and {len(originals)}")
    if features.isnan().any() or originals.isnan().any():
        return float("nan")
    ours, theirs = (fid_features_to_statistics(x.double().cpu()) for x in (features, originals))
    return float(fid_statistics_to_metric(ours, theirs, verbose=False)[KEY_METRIC_FID])
