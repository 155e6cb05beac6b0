"""Which calls of an operator torch.compile is tried with."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from tests.ops.skaf_gate_inputs import BACKENDS

# Of the reference one: it is plain PyTorch, which takes many times as long to trace as one operator.
WAYS: list[Any] = [
    pytest.param(*getattr(backend, "values", (backend,)), dynamic, autocast, marks=getattr(backend, "marks", ()))
    for backend, dynamic, autocast in itertools.product(BACKENDS, (False, True), (False, True))
    if backend != "reference" or (dynamic and autocast)
]
ways = pytest.mark.parametrize(("backend", "dynamic", "autocast"), WAYS)
