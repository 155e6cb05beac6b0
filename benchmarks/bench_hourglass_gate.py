"""hourglass_gate, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import hourglass_gate
from aminet_fast.reference.frm import hourglass_gate_ref

BATCH, WIDTH = 4, 64


def tensors(channels: int, device: torch.device) -> list[Tensor]:
    """The operator's twelve tensors."""
    side = 128 * 24 // channels
    generator = torch.Generator(device).manual_seed(0)
    image, maps = (BATCH, channels, side, side), (BATCH, WIDTH, side, side)
    norm, inner = [image, (channels,), (channels,)], [maps, (WIDTH,), (WIDTH,)]
    sizes = [image, *norm, *inner, *inner, (1, WIDTH, 3, 3), (1,)]
    drawn = [torch.randn(size, device=device, generator=generator) for size in sizes]
    drawn[10] *= 0.04
    last = torch.channels_last
    return [(t.contiguous(memory_format=last) if t.dim() == 4 else t).requires_grad_() for t in drawn]


def check(arguments: list[Tensor], backend: str) -> None:
    """No time is worth printing for wrong numbers."""
    grad = torch.randn_like(arguments[0])
    ours = hourglass_gate(*arguments, backend=backend)
    reference = hourglass_gate_ref(*(a.double() for a in arguments))
    torch.testing.assert_close(ours.double(), reference, rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(ours, arguments, grad)
    for one, two in zip(found, torch.autograd.grad(reference, arguments, grad.double()), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * two.abs().max().item())


@pytest.mark.parametrize("run", ["reference", "auto"])
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_hourglass_gate(
    measure: Callable[..., None], device: torch.device, channels: int, run: str, what: str
) -> None:
    choice = backends.explain("hourglass_gate", device.type, "auto")
    if run == "auto" and choice.backend == "reference":
        pytest.skip(choice.reason)
    arguments = tensors(channels, device)
    check(arguments, run)
    function: Callable[..., Tensor] = hourglass_gate if run == "auto" else hourglass_gate_ref
    grad = torch.randn_like(arguments[0])

    def forward() -> None:
        with torch.no_grad():
            function(*arguments)

    def both() -> None:
        torch.autograd.grad(function(*arguments), arguments, grad)

    moved = 3 * grad.nbytes + 2 * arguments[4].nbytes  # z, x, y, a, b; backward reads and writes them once more
    measure(forward if what == "forward" else both, bytes=moved * (1 if what == "forward" else 2), rounds=20)
