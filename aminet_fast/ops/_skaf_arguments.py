"""What skaf_descriptor may be called with, and what its weights are packed into."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._library import describe


def packing(weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> tuple[torch.dtype, int] | None:
    """Dtype and size of what they are packed into for x of `dtype`, if they are; None: as `skaf_descriptor_prepack`."""
    sizes = [tuple(weight.shape[1:]) for weight in weights]
    inputs, device, dtypes = sizes[0][0], weights[0].device.type, {weight.dtype for weight in weights}
    if device == "cuda":
        wanted = dtype or next(iter(dtypes - {torch.float32}), torch.bfloat16)
        served = wanted in (torch.float32, torch.bfloat16, torch.float16) and dtypes <= {torch.float32, wanted}
        return (wanted, packed_size(weights)) if served else None
    # The rules of the CPU's kernels too: has_winograd in csrc/cpu/skaf_winograd.cpp, and winograd_weight_size in
    # csrc/cpu/winograd.h: eight points each way, outputs by the eight.
    floats = dtypes == {torch.float32} and dtype in (None, torch.float32)
    if device == "cpu" and floats and sizes == [(inputs, 5, 5), (inputs, 7, 7)] and inputs >= 8:
        return torch.float32, sum((weight.shape[0] + 7) // 8 * 8 * inputs * 64 for weight in weights)
    return None


def packed_size(weights: Sequence[Tensor]) -> int:
    """On CUDA devices: a row for each output and one more, as kernels/skaf_descriptor_forward.py has them."""
    window = max(weight.shape[-1] for weight in weights)
    return (sum(weight.shape[0] for weight in weights) + 1) * window * window * weights[0].shape[1]


def check_packed(packed: Tensor | None, weights: Sequence[Tensor]) -> None:
    if packed is None:
        return
    wanted = "floating-point" if weights[0].device.type == "cuda" else "float32"
    fits = isinstance(packed, Tensor) and packed.dim() == 1 and packed.is_floating_point()
    if not fits or wanted not in ("floating-point", str(packed.dtype).removeprefix("torch.")):
        raise TypeError(f"skaf_descriptor: packed must be a 1-d {wanted} tensor or None, got {describe(packed)}")
    if packing(weights, packed.dtype) != (packed.dtype, packed.shape[0]) or packed.device != weights[0].device:
        raise ValueError(
            f"skaf_descriptor: packed must be skaf_descriptor_prepack of weights, got {describe(packed)} "
            f"for weights {', '.join(describe(weight) for weight in weights)}"
        )


def check_tensors(name: str, tensors: object) -> None:
    if not isinstance(tensors, (list, tuple)) or not all(isinstance(t, Tensor) for t in tensors):
        raise TypeError(f"skaf_descriptor: {name} must be a list of tensors, got {_describe_list(tensors)}")


def check_convolutions(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Both as lists; else TypeError or ValueError."""
    check_tensors("weights", weights)
    check_tensors("biases", biases)
    if not weights or len(weights) != len(biases):
        raise ValueError(
            "skaf_descriptor: weights and biases must have one entry for each convolution and at least one, "
            f"got {len(weights)} and {len(biases)}"
        )
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        _check_parameter(f"weights[{i}]", weight, x)
        _check_parameter(f"biases[{i}]", bias, x)
        odd = weight.dim() == 4 and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1
        if not odd or weight.shape[1] != x.shape[1] or weight.shape[0] < 1:
            wanted = f"[C_k, {x.shape[1]}, k, k] of odd k, for x with {x.shape[1]} channels"
            raise ValueError(f"skaf_descriptor: weights[{i}] must be {wanted}, got {describe(weight)}")
        if bias.dim() != 1 or bias.shape[0] != weight.shape[0]:
            wanted = f"[{weight.shape[0]}], one value a channel of weights[{i}]"
            raise ValueError(f"skaf_descriptor: biases[{i}] must be {wanted}, got {describe(bias)}")
    return list(weights), list(biases)


def _describe_list(value: object) -> str:
    """What came in place of a list of tensors."""
    if not isinstance(value, (list, tuple)):
        return describe(value)
    return f"{type(value).__name__} of {', '.join(sorted({type(entry).__name__ for entry in value}))}"


def _check_parameter(name: str, parameter: Tensor, x: Tensor) -> None:
    """Of x's dtype or float32, on x's device."""
    if parameter.dtype not in (x.dtype, torch.float32):
        raise TypeError(f"skaf_descriptor: {name} must have x's dtype {x.dtype} or float32, got {describe(parameter)}")
    if parameter.device != x.device:
        raise ValueError(
            f"skaf_descriptor: {name} is on {parameter.device} and x on {x.device}; move them to one device"
        )
