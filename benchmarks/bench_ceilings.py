"""What the machine gives: copy bandwidth and a large matrix product, to hold the rates of the same run against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from .cases import Group
from .contenders import Contender
from .timing import Plan, interleave, on_device, on_host

COPY_BYTES = {"cpu": 2**28, "cuda": 2**31}
GEMM_SIDE = {"cpu": 2048, "cuda": 8192}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("what", ["copy", "gemm"])
def bench_ceilings(write: Callable[..., None], device: torch.device, tiny: bool, what: str, dtype: str) -> None:
    kind, torch_dtype = device.type, getattr(torch, dtype)
    work: dict[str, float]
    if what == "copy":
        count = (2**20 if tiny else COPY_BYTES[kind]) // torch_dtype.itemsize
        source = torch.randn(count, device=device, dtype=torch_dtype)
        target = torch.empty_like(source)
        run: Callable[[], Any] = lambda: target.copy_(source)  # noqa: E731
        work = {"bytes": 2 * source.nbytes}
    else:
        side = 64 if tiny else GEMM_SIDE[kind]
        a, b = (torch.randn(side, side, device=device, dtype=torch_dtype) for _ in range(2))
        run, work = lambda: a @ b, {"flops": 2 * side**3}
    sample = on_device(run) if kind == "cuda" else on_host(run)
    group = Group("ceiling", what, dtype, 0, 0, 0)
    write(group, Contender("machine", "flat"), interleave({"machine": sample}, Plan(20, 3))["machine"], work)
