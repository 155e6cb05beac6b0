"""Triton kernels compiled, without a GPU, for GPUs: no spills, little shared memory, enough blocks, promised layouts.

The public functions run forward and backward on fake CUDA tensors; see tests/harness/triton/. One operator, one GPU:
``pytest tests/kernels/test_compile.py -k "layer_norm2d and sm90"``.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.harness.triton.case import Case, cases_of, first_case, operators

pytest.importorskip("triton", reason="Triton is not installed")

FAST = {(torch.float32, 80), (torch.bfloat16, 90)}
# What is compiled for the sizes of the network and for each operator's first case; float16 differs from bfloat16 in the
# instructions that convert only. gfx942 is AMD's MI300.
EVERYWHERE = {(dtype, arch) for dtype in (torch.float32, torch.bfloat16) for arch in (80, 86, 90, 100, "gfx942")}
EVERYWHERE |= {(torch.float16, 90)}
# And for other cases, which differ in what of the kernels they use: every dtype and NVIDIA architecture once.
ONCE = {(torch.float32, 80), (torch.float32, 100), (torch.bfloat16, 90), (torch.float16, 86)}


def trials() -> list[Any]:
    found = []
    for operator in operators():
        first = first_case(operator)
        for case in (case for case in cases_of(operator) if case.compile):
            for dtype, arch in sorted(EVERYWHERE if case is first or case.network else ONCE, key=str):
                if dtype not in case.dtypes:
                    continue
                marks = [] if case is first and (dtype, arch) in FAST else [pytest.mark.slow]
                target = arch if isinstance(arch, str) else f"sm{arch}"
                name = f"{case}-{str(dtype).removeprefix('torch.')}-{target}"
                found.append(pytest.param(case, dtype, arch, id=name, marks=marks))
    return found


@pytest.mark.parametrize(("case", "dtype", "arch"), trials())
def test_compiles(case: Case, dtype: torch.dtype, arch: int | str) -> None:
    from tests.harness.triton.checks import check_compiles
    from tests.harness.triton.resources import has_backend

    if not has_backend(arch):
        pytest.skip(f"this Triton has no backend for {arch}")
    for launch in check_compiles(case, dtype, arch):
        print(launch.kernel, launch.grid, launch.options, launch.used)


@pytest.mark.parametrize(
    "operator", [pytest.param(o, marks=[] if o == "layer_norm2d" else pytest.mark.slow) for o in operators()]
)
def test_other_batches_compile_little(operator: str) -> None:
    """Sizes are no constants of kernels, so that most serve other batches too.

    Not all: Triton compiles anew where a number is no multiple of 16 any more, or is one.
    """
    from tests.harness.triton.checks import check_compiles

    case = next(case for case in cases_of(operator) if case.network)
    compiled: list[set[str]] = []
    for batch in (32, 31, 33):
        found = {launch.key for launch in check_compiles(case, torch.bfloat16, 90, batch)}
        compiled.append(found - set().union(*compiled))
    assert all(2 * len(new) <= len(compiled[0]) for new in compiled[1:]), compiled
