"""LPIPS (Zhang et al., 2018): package lpips, AlexNet, version 0.1, with AlexNet's weights from a file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..output.extras import missing
from .luma import check_shapes, quantise
from .weights import ALEXNET, describe, find_weights, read_weights, wrong_weights

_SMALLEST = 31  # of a smaller side AlexNet's second pooling leaves nothing


class Lpips:
    """LPIPS of pictures, ready to be called as the other metrics are.

    Args:
        weights: torchvision's AlexNet, alexnet-owt-7be5be79.pth; without it, that file in torch.hub's cache. The
            linear weights on top of it come with package lpips.
        device: where it runs.

    Raises:
        ImportError: lpips is not installed.
        FileNotFoundError: AlexNet's weights are not on this disk; nothing is downloaded.
        ValueError: the file holds something else.
    """

    def __init__(self, weights: str | Path | None = None, device: str | torch.device = "cpu") -> None:
        try:
            import lpips
        except ImportError as error:
            raise missing("metrics", f"LPIPS needs package lpips ({error})") from error
        path = find_weights(ALEXNET, weights)
        state = read_weights(path, ALEXNET)
        # The random start is overwritten below; the caller's random numbers stay as they are.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision by its old arguments
            # pnet_rand: lpips's other way to AlexNet downloads it.
            network = lpips.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
        backbone = network.net  # slice1.0.weight there is features.0.weight in torchvision
        try:
            mapped = {key: state["features." + key.split(".", 1)[1]] for key in backbone.state_dict()}
            backbone.load_state_dict(mapped)
        except (KeyError, RuntimeError) as error:
            raise wrong_weights(path, ALEXNET, f"no match at {' '.join(str(error).split())[:80]}") from error
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.weights = describe(path, ALEXNET)

    @torch.no_grad()
    def __call__(self, sr: Tensor, hr: Tensor, protocol: str = "fsr") -> Tensor:
        """LPIPS of each picture, on the 8-bit RGB pictures that the protocol compares, scaled to [-1, 1].

        Args:
            sr: [N, 3, H, W] floating-point pictures in [-1, 1], H and W at least 31.
            hr: the originals, of the same shape.
            protocol: ``"fsr"`` or ``"exact"``, see :func:`aminet_fast.metrics.quantise`.

        Returns:
            [N] float64 on sr's device; 0 for identical pictures, NaN where a picture holds a NaN. The network runs
            in float32.

        Raises:
            TypeError: a picture is not a floating-point tensor.
            ValueError: the shapes differ, are not [N, 3, H, W] or are too small; unknown protocol.
        """
        check_shapes(sr, hr)
        a, b = ((quantise(x, protocol) / 127.5 - 1.0).float().to(self.device) for x in (sr, hr))
        if a.dim() != 4 or a.shape[1] != 3:
            raise ValueError(f"LPIPS takes RGB pictures [N, 3, H, W], got shape {tuple(a.shape)}")
        if min(a.shape[-2:]) < _SMALLEST:
            raise ValueError(
                f"LPIPS needs pictures of at least {_SMALLEST}x{_SMALLEST} pixels, got {a.shape[-2]}x{a.shape[-1]}"
            )
        return self.network(a, b).view(-1).double().to(sr.device)  # [N, 1, 1, 1] before
