"""Are these the right numbers? Asked of each contender, against float64, before it is timed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# ||found - wanted|| / ||wanted|| at most. cuDNN's float32 convolutions are TF32 unless told otherwise.
TOLERANCE = {
    ("cpu", "float64"): 1e-10,
    ("cpu", "float32"): 1e-4,
    ("cpu", "bfloat16"): 3e-2,
    ("cpu", "float16"): 5e-3,
    ("cuda", "float64"): 1e-10,
    ("cuda", "float32"): 5e-3,
    ("cuda", "bfloat16"): 3e-2,
    ("cuda", "float16"): 5e-3,
}
# Values nearer than this to another branch of a function (the max's next channel) may take that branch.
MARGIN = {"float64": 0.0, "float32": 1e-2, "bfloat16": 6e-2, "float16": 2e-2}
# Plain PyTorch rounds after every step, where ours sums in float32 throughout; it is the baseline, not on trial.
PLAIN_IN_16_BITS = 10


def most(device: str, dtype: str, plain: bool) -> float:
    """The error that is let pass."""
    return TOLERANCE[device, dtype] * (PLAIN_IN_16_BITS if plain and dtype in ("bfloat16", "float16") else 1)


class WrongNumbersError(AssertionError):
    """A contender is too far from the float64 reference to be timed."""


def error(found: Tensor, wanted: Tensor) -> float:
    """Relative error in the Euclidean norm; infinite for NaN and for another shape."""
    if found.shape != wanted.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    difference = torch.linalg.vector_norm(found.detach().double() - wanted.detach().double())
    return float(difference / torch.linalg.vector_norm(wanted.detach().double()).clamp_min(1e-30))


def worst(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest error of several tensors; infinite when their numbers differ."""
    if len(found) != len(wanted):
        return float("inf")
    return max(error(f, w) for f, w in zip(found, wanted, strict=True))


def together(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The error of all tensors as one vector."""
    if [f.shape for f in found] != [w.shape for w in wanted]:
        return float("inf")
    return error(torch.cat([f.detach().double().flatten() for f in found]), torch.cat([w.flatten() for w in wanted]))


def require(name: str, found: float, limit: float) -> float:
    """The error, or WrongNumbersError."""
    if not found <= limit:
        raise WrongNumbersError(f"{name} is {found:.1e} from the float64 reference, {limit:.1e} at most")
    return found
