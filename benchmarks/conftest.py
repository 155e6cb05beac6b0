"""What every benchmark shares: the device, and rates beside the times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def measure(benchmark: Any, device: torch.device) -> Callable[..., None]:
    """``measure(function, flops=, bytes=, rounds=)``: time it, and note GFLOP/s and GB/s at the median."""

    def run(function: Callable[[], Any], *, flops: float = 0, bytes: float = 0, rounds: int = 10) -> None:
        def synchronised() -> None:
            function()
            if device.type == "cuda":
                torch.cuda.synchronize()

        benchmark.pedantic(synchronised, rounds=rounds, warmup_rounds=2)
        if benchmark.stats is None:  # --benchmark-disable
            return
        median = benchmark.stats.stats.median
        benchmark.extra_info["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
        benchmark.extra_info["torch"] = torch.__version__
        if flops:
            benchmark.extra_info["GFLOP/s"] = round(flops / median / 1e9, 1)
        if bytes:
            benchmark.extra_info["GB/s"] = round(bytes / median / 1e9, 2)

    return run
