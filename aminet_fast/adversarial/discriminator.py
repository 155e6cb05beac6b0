"""The discriminator D of Eq. 20 and 21, of which the paper gives the letter alone: patch networks at two scales."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

SMALLEST = 24  # H and W of which `PatchDiscriminator` leaves one patch: 24 -> 12 -> 6 -> 3 -> 2 -> 1


class PatchDiscriminator(nn.Sequential):
    """[N, 3, H, W] in [-1, 1] -> logits [N, 1, H/8 - 2, W/8 - 2], above 0 where a patch looks like a real picture's.

    pix2pix's (arXiv 1611.07004, Section 6.1.2) with patches of 70x70: five 4x4 convolutions, the first three of stride
    2, LeakyReLU(0.2) between them. Each is divided by its largest singular value (spectral normalisation, arXiv
    1802.05957), which takes the place of batch normalisation.

    Args:
        width: Channels after the first convolution; two, four and eight times as many follow.
    """

    def __init__(self, width: int = 64) -> None:
        channels = (3, width, 2 * width, 4 * width, 8 * width, 1)
        layers: list[nn.Module] = []
        for i, stride in enumerate((2, 2, 2, 1, 1)):
            convolution = nn.Conv2d(channels[i], channels[i + 1], 4, stride, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers[:-1])


class MultiScaleDiscriminator(nn.Module):
    """Discriminators of equal shape for a picture and its halvings (pix2pixHD, arXiv 1711.11585, Section 3.2).

    In training mode each call also takes one step of the power iterations by which the singular values are tracked;
    their vectors are buffers, and so are in the state dict.

    Args:
        scales: Number of discriminators; each sees the picture at half the size of the one before. Two leave logits of
            14x14 and 6x6 at 128x128.
        width: As `PatchDiscriminator` takes it.
    """

    def __init__(self, scales: int = 2, width: int = 64) -> None:
        super().__init__()
        self.scales = nn.ModuleList(PatchDiscriminator(width) for _ in range(scales))
        # Its windows overlap, and leave the border out of the mean: no aliasing, no darker rim.
        self.halve = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)

    @staticmethod
    def smallest(scales: int) -> int:
        """The H and W below which the last scale would have no logit."""
        return SMALLEST << (scales - 1)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """pictures [N, 3, H, W] in [-1, 1] -> logits of each scale, float32, the full size first.

        Raises ValueError when H or W is below ``smallest(scales)``.
        """
        least = self.smallest(len(self.scales))
        if min(pictures.shape[-2:]) < least:
            raise ValueError(
                f"a discriminator of {len(self.scales)} scales needs pictures of at least {least}x{least}, got"
                f" {pictures.shape[-2]}x{pictures.shape[-1]}"
            )
        logits = []
        with parametrize.cached():
            self._normalise(pictures.device.type)
            for i, discriminator in enumerate(self.scales):
                pictures = self.halve(pictures) if i else pictures
                logits.append(discriminator(pictures).float())  # also under autocast: a loss follows
        return logits

    def _normalise(self, device: str) -> None:
        """Put the normalised weights in the cache before autocast sees the power iteration, a matter of float32."""
        with torch.autocast(device, enabled=False):
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight  # noqa: B018 (reading it computes it)
