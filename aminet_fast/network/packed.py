"""What `freeze` keeps beside the weights it was made of, and how it tells that they are no longer those."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from operator import attrgetter, is_
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

_version: Callable[[Tensor], int] = attrgetter("_version")
_needs_gradient: Callable[[Tensor], bool] = attrgetter("requires_grad")


class Packed:
    """What was made of some weights, for data of one dtype or several.

    It is given for those very tensors alone, and only as long as nothing has written to them: each counts what changes
    it in place. (A change through ``.data``, which torch does not count, goes unnoticed, and so does one in place of a
    network that is compiled already.)

    Args:
        weights: Of which it was made.
        made: What of them is for which dtype; None: nothing.
    """

    def __init__(self, weights: Sequence[Tensor], made: Mapping[torch.dtype, Any]) -> None:
        self._weights = list(weights)
        self._marks = _marks(self._weights)
        self.made = {dtype: value for dtype, value in made.items() if value is not None}

    def of(self, weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> Any:
        """What is kept for that dtype (None: for any); None where there is none, or the weights are others by now, or
        one of them needs its gradient."""
        found = self.made.get(dtype) if dtype is not None else next(iter(self.made.values()), None)
        if found is None or len(weights) != len(self._weights):
            return None
        if torch.compiler.is_dynamo_compiling():  # which has a guard for each of these, and follows no `map` of C
            pairs = zip(weights, self._weights, strict=True)
            fits = all(weight is kept and not weight.requires_grad for weight, kept in pairs)
        else:
            fits = all(map(is_, weights, self._weights)) and not any(map(_needs_gradient, weights))
        return found if fits and self.unchanged() else None

    @torch.compiler.assume_constant_result
    def unchanged(self) -> bool:
        """Whether the weights are what they were; of a compiled network: when it was compiled."""
        return _marks(self._weights) == self._marks

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed | None:
        """The copy of a module keeps the copy of this, made of its own weights."""
        if not self.unchanged():
            return None
        weights = [deepcopy(weight, memo) for weight in self._weights]
        return Packed(weights, {dtype: deepcopy(value, memo) for dtype, value in self.made.items()})

    def __reduce__(self) -> Any:
        # Within one pickle the weights stay those of the modules.
        return (Packed, (self._weights, self.made if self.unchanged() else {}))


def _marks(weights: list[Tensor]) -> list[int]:
    """How often each was written to, and where it lies: `.to()` and ``p.data = ...`` leave the object and move it."""
    if isinstance(weights[0], FakeTensor):  # which lies nowhere
        return []
    try:
        return [*map(_version, weights), *map(Tensor.data_ptr, weights)]
    except RuntimeError:  # of inference tensors nobody counts what writes to them
        return [*map(Tensor.data_ptr, weights)]
