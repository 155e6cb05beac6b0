"""One table of tolerances: how far an operator may be from the reference computed in float64.

``assert_close(actual, expected)`` bounds each element by atol + rtol * |expected|, both scaled from the
dtype's unit roundoff. The rounding of the result itself is one unit; the rest is room for sums over
channels and pixels, which every backend orders as it likes.
"""

from __future__ import annotations

import torch
from torch import Tensor

# dtype: (rtol, atol as a fraction of the largest magnitude of the expected tensor)
FORWARD = {
    torch.float64: (1e-12, 1e-13),
    torch.float32: (1e-5, 1e-6),
    torch.bfloat16: (2**-7, 2**-9),
    torch.float16: (2**-10, 2**-12),
}
# Gradients of parameters are sums over all pixels, so their small elements come from large terms that cancel.
BACKWARD = {
    torch.float64: (1e-10, 1e-12),
    torch.float32: (1e-4, 1e-5),
    torch.bfloat16: (2**-6, 2**-7),
    torch.float16: (2**-9, 2**-10),
}

# Forward and backward in float32 where products are in TF32: not the result, but both factors of each product are
# rounded to as many bits as float16 has, so that small results are off by what large terms lost.
TF32 = ((2**-10, 2**-10), (2**-9, 2**-9))

# Winograd's sums are of larger terms than the result: of the sum of the terms' magnitudes, as absolute room.
WINOGRAD = 2e-6


def rounded_to_tf32(x: Tensor) -> Tensor:
    """float32 that is finite, to ten bits of mantissa: nearest, ties away from zero."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def assert_close(
    actual: Tensor,
    expected: Tensor,
    table: dict[torch.dtype, tuple[float, float]],
    what: str,
    room: float = 0.0,
) -> None:
    """`actual` against `expected` (float64) by the row of `actual`'s dtype and absolute `room`; NaN anywhere fails."""
    rtol, atol = table[actual.dtype]
    assert actual.shape == expected.shape, f"{what}: shape {list(actual.shape)}, expected {list(expected.shape)}"
    scale = expected.abs().max().item()
    torch.testing.assert_close(
        actual.double(),
        expected.double(),
        rtol=rtol,
        atol=atol * scale + room + 1e-30,
        msg=lambda text: f"{what}: {text}",
    )
