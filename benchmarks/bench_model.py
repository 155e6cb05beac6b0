"""AMINet as eager PyTorch runs it: inference and a training step, in both memory layouts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from aminet_fast import AMINet

MACS = 13.3e9  # a forward pass at 128x128 (tests/test_reference.py)
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def build(device: torch.device, layout: str, batch: int) -> tuple[AMINet, torch.Tensor]:
    torch.manual_seed(0)
    memory_format = LAYOUTS[layout]
    model = AMINet().to(device).to(memory_format=memory_format)  # type: ignore[call-overload]
    return model, torch.rand(batch, 3, 128, 128, device=device).mul(2).sub(1).contiguous(memory_format=memory_format)


@pytest.mark.parametrize("layout", LAYOUTS)
def bench_inference(measure: Callable[..., None], device: torch.device, layout: str) -> None:
    model, x = build(device, layout, 1)
    model.eval()

    def infer() -> None:
        with torch.no_grad():
            model(x)

    measure(infer, flops=2 * MACS, rounds=10)


@pytest.mark.parametrize("layout", LAYOUTS)
def bench_training_step(measure: Callable[..., None], device: torch.device, layout: str) -> None:
    batch = 32 if device.type == "cuda" else 4
    model, x = build(device, layout, batch)
    target = torch.rand_like(x)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.99), fused=True)

    def step() -> None:
        optimizer.zero_grad()
        (model(x) - target).abs().mean().backward()
        optimizer.step()

    measure(step, flops=3 * 2 * MACS * batch, rounds=5)
