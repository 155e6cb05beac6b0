"""layer_norm2d, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import layer_norm2d

BATCH = 4


def tensors(channels: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    side = 128 * 24 // channels
    generator = torch.Generator(device).manual_seed(0)
    x = torch.randn(BATCH, channels, side, side, device=device, generator=generator)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, device=device, generator=generator).requires_grad_()
    return x, weight, torch.randn(channels, device=device, generator=generator).requires_grad_()


def check(arguments: tuple[Tensor, Tensor, Tensor], backend: str) -> None:
    """No time is worth printing for wrong numbers."""
    grad = torch.randn_like(arguments[0])
    ours = layer_norm2d(*arguments, backend=backend)
    reference = layer_norm2d(*(a.double() for a in arguments), backend="reference")
    torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(ours, arguments, grad),
        torch.autograd.grad(reference, arguments, grad.double()),
        strict=True,
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_layer_norm2d(
    measure: Callable[..., None], device: torch.device, channels: int, backend: str, what: str
) -> None:
    choice = backends.explain("layer_norm2d", device.type, backend)
    if backend != "reference" and choice.backend == "reference":
        pytest.skip(choice.reason)
    arguments = tensors(channels, device)
    check(arguments, backend)
    grad = torch.randn_like(arguments[0])

    def forward() -> None:
        with torch.no_grad():
            layer_norm2d(*arguments, backend=backend)

    def both() -> None:
        torch.autograd.grad(layer_norm2d(*arguments, backend=backend), arguments, grad)

    moved = 2 if what == "forward" else 5  # x, y; then dy, x, dx
    measure(forward if what == "forward" else both, bytes=moved * arguments[0].nbytes, rounds=30)
