"""Triton kernels compiled, without a GPU, for GPUs: no spills, little shared memory, enough blocks, promised layouts.

The public functions run forward and backward on fake CUDA tensors; see tests/triton/. One operator, one GPU:
``pytest tests/test_triton_compile.py -k "layer_norm2d and sm90"``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from triton_harness.case import Case, cases_of, fast_case, operators

pytest.importorskip("triton", reason="Triton is not installed")

ARCHITECTURES = (80, 86, 90, 100)
FAST = {(torch.float32, 80), (torch.bfloat16, 90)}


def trials() -> list[Any]:
    found = []
    for operator in operators():
        first = fast_case(operator)
        for case in (case for case in cases_of(operator) if case.compile):
            for dtype in case.dtypes:
                for arch in ARCHITECTURES:
                    marks = [] if case is first and (dtype, arch) in FAST else [pytest.mark.slow]
                    name = f"{case}-{str(dtype).removeprefix('torch.')}-sm{arch}"
                    found.append(pytest.param(case, dtype, arch, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("case", "dtype", "arch"), trials())
def test_compiles(case: Case, dtype: torch.dtype, arch: int) -> None:
    from triton_harness.checks import check_compiles

    for launch in check_compiles(case, dtype, arch):
        print(launch.kernel, launch.grid, launch.options, launch.used)
