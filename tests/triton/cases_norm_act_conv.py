"""norm_act_conv: paddings, strides, nearest x2, with and without moments; and the network's uses of it."""

from __future__ import annotations

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw

# Activation and gradient are rounded before they are multiplied; as in tests/norm_act_conv_inputs.py.
LOOSEN = 8.0
# stride, padding, upsample
OPTIONS = [
    (1, "zeros", False),
    (1, "reflect", False),
    (2, "zeros", False),
    (2, "reflect", False),
    (1, "zeros", True),
    (1, "reflect", True),
    (2, "zeros", True),
    (2, "reflect", True),
]


def _arguments(
    draw: Draw, n: int, c: int, h: int, w: int, k: int, option: tuple[int, str, bool], moments: bool, slope: float = 0.2
) -> Arguments:
    """x, scale, shift, weight and the options."""
    stride, padding, upsample = option
    return {
        "x": draw(n, c, h, w),
        "scale": draw(c),
        "shift": draw(c),
        "weight": draw(k, c, 3, 3, fan_in=9 * c),
        "slope": slope,
        "stride": stride,
        "padding": padding,
        "upsample": upsample,
        "moments": moments,
    }


def _case(
    name: str, shape: tuple[int, ...], option: tuple[int, str, bool], moments: bool = True, **kinds: bool
) -> Case:
    return Case(
        "norm_act_conv",
        name,
        lambda draw: _arguments(draw, *shape, option, moments),
        loosen=LOOSEN,
        **kinds,  # type: ignore[arg-type]
    )


def _name(option: tuple[int, str, bool]) -> str:
    stride, padding, upsample = option
    return f"{padding}{stride}{'up' if upsample else ''}"


def _contiguous(draw: Draw) -> Arguments:
    """NCHW, parameters in float32, no activation."""
    return {
        "x": draw(2, 5, 4, 3, contiguous=True),
        "scale": draw(5, dtype=torch.float32),
        "shift": draw(5, dtype=torch.float32),
        "weight": draw(7, 5, 3, 3, contiguous=True, fan_in=45, dtype=torch.float32),
        "slope": 1.0,
    }


def _network() -> list[Case]:
    """FRM's layers at its four sizes."""
    cases = []
    for c, side in NETWORK:
        half = side // 2
        layers = {
            "frm": ((BATCH, c, side, side, c), OPTIONS[0]),
            "b1": ((BATCH, c, side, side, 64), OPTIONS[1]),
            "b2": ((BATCH, c, side, side, 64), OPTIONS[3]),
            "plus": ((BATCH, 64, half, half, 64), OPTIONS[1]),
            "b3": ((BATCH, 64, half, half, 64), OPTIONS[5]),
        }
        cases += [_case(f"{name}-{c}@{side}", shape, option, network=True) for name, (shape, option) in layers.items()]
    return cases


CASES = [
    *[_case(f"c24-{_name(option)}", (2, 24, 5, 7, 20), option) for option in OPTIONS],
    *[_case(f"plain-{_name(option)}", (1, 3, 4, 2, 5), option, moments=False) for option in OPTIONS],
    *[_case(f"row-{_name(option)}", (2, 2, 1, 6, 3), option) for option in OPTIONS],
    *[_case(f"pixel-{_name(option)}", (3, 1, 1, 1, 1), option) for option in OPTIONS],
    # A whole tap to a block of the GEMM, more than one block of outputs, more than one tile of pixels.
    *[_case(f"c32-{_name(option)}", (1, 32, 9, 8, 70), option) for option in OPTIONS[1::2]],
    _case("three", (1, 4, 3, 3, 4), OPTIONS[3]),
    Case("norm_act_conv", "contiguous", _contiguous, gradient="contiguous", loosen=LOOSEN),
    Case(
        "norm_act_conv",
        "expanded",
        lambda draw: _arguments(draw, 2, 6, 4, 5, 4, OPTIONS[1], False),
        gradient="expanded",
        loosen=LOOSEN,
    ),
    *_network(),
]
