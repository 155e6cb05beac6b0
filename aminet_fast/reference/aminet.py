"""AMINet, the whole network (Section III-A, Fig. 2)."""

from __future__ import annotations

from torch import Tensor, nn

from .config import AMINetConfig
from .edff import EDFF
from .lgfi import LGFI
from .transformer import TransformerBlock


def slot(channels: int, heads: int, config: AMINetConfig) -> nn.Module:
    """What stands in each of the network's eight slots."""
    if config.block == "lgfi":
        return LGFI(channels, heads, config)
    return nn.Sequential(*(TransformerBlock(channels, heads, config) for _ in range(config.transformer_depth)))


def halve(channels: int, config: AMINetConfig) -> nn.Module:
    """[N, C, H, W] -> [N, 2C, H/2, W/2]."""
    if config.down == "conv":
        return nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1)
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, 2 * channels, 1))


def double(channels: int, config: AMINetConfig) -> nn.Module:
    """[N, 2C, H, W] -> [N, C, 2H, 2W]."""
    if config.up == "shuffle":
        return nn.Sequential(nn.Conv2d(2 * channels, 4 * channels, 1), nn.PixelShuffle(2), nn.PReLU(1))
    if config.up == "transposed":
        return nn.Sequential(nn.ConvTranspose2d(2 * channels, channels, 2, stride=2), nn.PReLU(1))
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(2 * channels, channels, 3, padding=1), nn.PReLU(1))


class AMINet(nn.Module):
    """The reference network, plain PyTorch from the paper's equations; the oracle for everything faster.

    Args:
        config: The network's shape; the default is the paper's.
    """

    def __init__(self, config: AMINetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AMINetConfig()
        *encoder, middle = zip(config.channels, config.heads, strict=True)
        self.head = nn.Conv2d(3, config.width, 3, padding=1)
        self.enc = nn.ModuleList(slot(c, heads, config) for c, heads in encoder)
        self.down = nn.ModuleList(halve(c, config) for c, _ in encoder)
        self.mid = nn.ModuleList(slot(*middle, config) for _ in range(2))
        decoder = encoder[::-1]
        self.up = nn.ModuleList(double(c, config) for c, _ in decoder)
        self.edff = nn.ModuleList(EDFF(c, config) for c, _ in decoder)
        self.dec = nn.ModuleList(slot(c, heads, config) for c, heads in decoder)
        self.tail = nn.Conv2d(config.width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Super-resolve faces that bicubic interpolation has brought to full size.

        x [N, 3, H, W] in [-1, 1], H and W divisible by ``config.multiple`` (16) -> [N, 3, H, W], about [-1, 1] (not
        clamped). Raises ValueError for another shape.
        """
        check_input(x, self.config.multiple)
        f = self.head(x)
        skips = []
        for enc, down in zip(self.enc, self.down, strict=True):
            f = enc(f)
            skips.append(f)
            f = down(f)
        for mid in self.mid:
            f = mid(f)
        for up, edff, dec, skip in zip(self.up, self.edff, self.dec, reversed(skips), strict=True):
            f = dec(edff(skip, up(f)))
        return x + self.tail(f)


def check_input(x: Tensor, multiple: int) -> None:
    """Raise ValueError, with the remedy, unless x is [N, 3, H, W] with H and W divisible by `multiple`."""
    if x.dim() != 4 or x.shape[1] != 3:
        raise ValueError(f"AMINet takes [N, 3, H, W]; got {list(x.shape)}")
    h, w = x.shape[-2:]
    if h % multiple or w % multiple or h == 0 or w == 0:
        raise ValueError(
            f"AMINet takes H and W divisible by {multiple}; got {h}x{w}. "
            f"Pad and crop: `x, crop = pad_to_multiple(x, {multiple}); y = crop(model(x))`"
        )
