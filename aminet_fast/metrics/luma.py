"""From pictures in [-1, 1] to 8-bit pictures, to the Y of MATLAB's ``rgb2ycbcr`` and to Pillow's grey."""

from __future__ import annotations

import torch
from torch import Tensor

PROTOCOLS: tuple[str, ...] = ("fsr", "exact")

# 1000 times the weights of R, G, B: integers, so that Y is exact and the same on every machine.
_WEIGHTS = (65481, 128553, 24966)
_DENOMINATOR = 255_000
_OFFSET = 16

# 65536 times the weights of Pillow's convert("L"), as integers.
_GREY_WEIGHTS = (19595, 38470, 7471)
_GREY_DENOMINATOR = 65536

# A level v stored as float32 v / 127.5 - 1 comes back up to about 2e-5 below v. Without this margin
# truncation would turn an untouched 8-bit picture into one that is a level darker here and there.
_LEVEL_MARGIN = 1e-4


def quantise(x: Tensor, protocol: str = "fsr") -> Tensor:
    """Turns pictures into the 8-bit levels that a protocol compares.

    Args:
        x: [..., H, W] floating-point pictures; -1 is black and 1 is white, values outside are clamped.
        protocol: ``"fsr"`` truncates ``(x + 1) * 127.5`` to the level below; ``"exact"`` rounds to the
            nearest level, half to even, as saved pictures are.

    Returns:
        float64 tensor of x's shape with whole numbers 0..255; a NaN stays NaN, so that it shows in the score.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: the protocol is unknown.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"pictures must be a floating-point tensor in [-1, 1], got {got}; convert with x / 127.5 - 1")
    check_protocol(protocol)
    levels = ((x.detach().double() + 1.0) * 127.5).clamp(0.0, 255.0)
    return (levels + _LEVEL_MARGIN).floor() if protocol == "fsr" else levels.round()


def luma(x: Tensor, protocol: str = "fsr") -> Tensor:
    """Y of MATLAB's YCbCr: ``16 + (65.481 R + 128.553 G + 24.966 B) / 255`` for 8-bit R, G, B.

    ``"fsr"`` is what the scripts of SPARNet and WFEN compute: the picture is clamped and truncated to
    uint8, Y is computed from it and truncated to uint8 again. ``"exact"`` drops both truncations: the
    picture is clamped and rounded to uint8 (this is the picture that gets saved) and Y stays a real number.

    Args:
        x: [N, 3, H, W] floating-point RGB pictures in [-1, 1].
        protocol: ``"fsr"`` or ``"exact"``.

    Returns:
        [N, 1, H, W] float64, 16..235 on the scale 0..255; whole numbers for ``"fsr"``.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is not [N, 3, H, W], or the protocol is unknown.
    """
    y = _weighed(x, protocol, _WEIGHTS, "luma") / _DENOMINATOR + _OFFSET
    return y.floor() if protocol == "fsr" else y


def grey(x: Tensor, protocol: str = "fsr") -> Tensor:
    """Grey of Pillow's ``convert("L")``: ``0.299 R + 0.587 G + 0.114 B`` for 8-bit R, G, B, black 0 and white 255.

    ``"fsr"`` rounds it to 8 bits as Pillow does, bit for bit, after truncating the picture as :func:`luma` does;
    ``"exact"`` rounds the picture and keeps the grey's fractions.

    Args:
        x: [N, 3, H, W] floating-point RGB pictures in [-1, 1].
        protocol: ``"fsr"`` or ``"exact"``.

    Returns:
        [N, 1, H, W] float64, 0..255; whole numbers for ``"fsr"``.

    Raises:
        TypeError: x is not a floating-point tensor.
        ValueError: x is not [N, 3, H, W], or the protocol is unknown.
    """
    total = _weighed(x, protocol, _GREY_WEIGHTS, "grey")
    if protocol == "fsr":
        return ((total + _GREY_DENOMINATOR // 2) / _GREY_DENOMINATOR).floor()
    return total / _GREY_DENOMINATOR


def luma_pair(sr: Tensor, hr: Tensor, protocol: str) -> tuple[Tensor, Tensor]:
    """The lumas of two batches that must have the same shape; raises ValueError when they do not."""
    check_shapes(sr, hr)
    return luma(sr, protocol), luma(hr, protocol)


def grey_pair(sr: Tensor, hr: Tensor, protocol: str) -> tuple[Tensor, Tensor]:
    """The greys of two batches that must have the same shape; raises ValueError when they do not."""
    check_shapes(sr, hr)
    return grey(sr, protocol), grey(hr, protocol)


def check_shapes(sr: Tensor, hr: Tensor) -> None:
    """Raises ValueError for two batches of pictures of different shapes."""
    if isinstance(sr, Tensor) and isinstance(hr, Tensor) and sr.shape != hr.shape:
        raise ValueError(f"sr and hr must have one shape, got {tuple(sr.shape)} and {tuple(hr.shape)}")


def _weighed(x: Tensor, protocol: str, weights: tuple[int, int, int], name: str) -> Tensor:
    """Weighed sum of the 8-bit R, G, B that a protocol compares: [N, 1, H, W] float64, whole numbers, exact."""
    if isinstance(x, Tensor) and (x.dim() != 4 or x.shape[1] != 3):
        raise ValueError(f"{name} takes RGB pictures [N, 3, H, W], got shape {tuple(x.shape)}")
    levels = quantise(x, protocol)
    factors = torch.tensor(weights, dtype=torch.float64, device=x.device).view(1, 3, 1, 1)
    return (levels * factors).sum(dim=1, keepdim=True)


def check_protocol(protocol: str) -> None:
    """Raises ValueError for a protocol that is not in ``PROTOCOLS``."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
