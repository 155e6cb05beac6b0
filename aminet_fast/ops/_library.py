"""What the operators share: the torch library they are defined in, and checks of arguments."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

NAMESPACE = "aminet_fast"
# Schemas live in Python, so that they exist when nothing was compiled; compiled modules add kernels to them.
library = torch.library.Library(NAMESPACE, "FRAGMENT")

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def no_second_derivative(operator: str) -> NoReturn:
    """Raised by differentiating a backward operator."""
    raise NotImplementedError(
        f"{operator} has no second derivative; for double backward pass backend='reference', "
        "or set AMINET_FAST_BACKEND=reference"
    )


def describe(value: object) -> str:
    """What came, for an error message: "float32 [2, 3]" for a tensor, else the type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return type(value).__name__


def check_image(operator: str, name: str, x: Tensor) -> None:
    """A [N, C, H, W] tensor of a supported dtype with no empty dimension; else TypeError or ValueError."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{operator}: {name} must be a tensor, got {describe(x)}")
    if x.dtype not in DTYPES:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise TypeError(f"{operator}: {name} must be one of {wanted}, got {describe(x)}")
    if x.dim() != 4 or x.numel() == 0:
        raise ValueError(f"{operator}: {name} must be [N, C, H, W] with every size at least 1, got {describe(x)}")


def check_channel_vector(operator: str, name: str, vector: Tensor, x: Tensor) -> None:
    """A parameter [C] for x [N, C, H, W], of x's dtype or float32, on x's device."""
    if not isinstance(vector, Tensor):
        raise TypeError(f"{operator}: {name} must be a tensor, got {describe(vector)}")
    if vector.dtype not in (x.dtype, torch.float32):
        raise TypeError(f"{operator}: {name} must have x's dtype {x.dtype} or float32, got {describe(vector)}")
    if vector.dim() != 1 or vector.shape[0] != x.shape[1]:
        raise ValueError(f"{operator}: {name} must be [{x.shape[1]}], one value a channel of x, got {describe(vector)}")
    if vector.device != x.device:
        raise ValueError(f"{operator}: {name} is on {vector.device} and x on {x.device}; move them to one device")
