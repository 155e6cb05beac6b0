"""What `freeze` keeps beside the weights it was made of, and how it tells that they are no longer those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


class Packed:
    """What was made of some weights, for data of one dtype or several.

    It is given for those very tensors alone, and only as long as nothing has written to them: each counts what changes
    it in place. (A change through ``.data``, which torch does not count, goes unnoticed, and so does one beneath a
    model that was compiled before.)

    Args:
        weights: Of which it was made.
        made: What of them is for which dtype; None: nothing.
    """

    def __init__(self, weights: Sequence[Tensor], made: Mapping[torch.dtype, Any]) -> None:
        self._weights, self._marks = list(weights), [_mark(weight) for weight in weights]
        self.made = {dtype: value for dtype, value in made.items() if value is not None}

    def of(self, weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> Any:
        """What is kept for that dtype (None: for any); None where there is none, or the weights are others by now, or
        one of them needs its gradient."""
        found = self.made.get(dtype) if dtype is not None else next(iter(self.made.values()), None)
        if found is None or any(weight.requires_grad for weight in weights):
            return None
        if torch.compiler.is_compiling():  # which neither asks where tensors lie nor how often they changed
            return found
        same = len(weights) == len(self._weights) and all(map(is_, weights, self._weights))
        return found if same and self.unchanged() else None

    def unchanged(self) -> bool:
        """Whether the weights are what they were."""
        return [*map(_mark, self._weights)] == self._marks

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed | None:
        """The copy of a module keeps the copy of this, made of its own weights."""
        if not self.unchanged():
            return None
        weights = [deepcopy(weight, memo) for weight in self._weights]
        return Packed(weights, {dtype: deepcopy(value, memo) for dtype, value in self.made.items()})

    def __reduce__(self) -> Any:
        # Within one pickle the weights stay those of the modules.
        return (Packed, (self._weights, self.made if self.unchanged() else {}))


def _mark(weight: Tensor) -> tuple[int | None, int]:
    """How often it was written to, and where it lies: `.to()` and ``p.data = ...`` leave the object and move it."""
    version = None if weight.is_inference() else weight._version
    return version, 0 if isinstance(weight, FakeTensor) else weight.data_ptr()
