"""skaf_gate, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import skaf_gate
from aminet_fast.reference.skaf import skaf_gate_ref

BATCH = 4
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def tensors(channels: int, device: torch.device, layout: str) -> list[Tensor]:
    """m, weight, bias, g, l, residual."""
    side = 128 * 24 // channels
    generator = torch.Generator(device).manual_seed(0)
    sizes = [(BATCH, 2, side, side), (2, 2, 7, 7), (2,), *[(BATCH, channels, side, side)] * 3]
    drawn = [torch.randn(size, device=device, generator=generator) for size in sizes]
    drawn[1] *= 0.1
    memory_format = LAYOUTS[layout]
    return [(t.contiguous(memory_format=memory_format) if t.dim() == 4 else t).requires_grad_() for t in drawn]


def check(arguments: list[Tensor], backend: str) -> None:
    """No time is worth printing for wrong numbers."""
    grad = torch.randn_like(arguments[3])
    ours = skaf_gate(*arguments, backend=backend)
    reference = skaf_gate_ref(*(a.double() for a in arguments))
    torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(ours, arguments, grad),
        torch.autograd.grad(reference, arguments, grad.double()),
        strict=True,
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("run", ["reference", "compiled", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_skaf_gate(
    measure: Callable[..., None], device: torch.device, channels: int, layout: str, run: str, what: str
) -> None:
    choice = backends.explain("skaf_gate", device.type, "auto")
    if run == "auto" and choice.backend == "reference":
        pytest.skip(choice.reason)
    arguments = tensors(channels, device, layout)
    check(arguments, "auto" if run == "auto" else "reference")
    function: Callable[..., Tensor] = skaf_gate if run == "auto" else skaf_gate_ref
    if run == "compiled":
        torch._dynamo.reset()
        function = torch.compile(skaf_gate_ref)
    grad = torch.randn_like(arguments[3])

    def forward() -> None:
        with torch.no_grad():
            function(*arguments)

    def both() -> None:
        torch.autograd.grad(function(*arguments), arguments, grad)

    moved = 4 if what == "forward" else 9  # g, l, residual, y; then dy, g, l, dg, dl
    measure(forward if what == "forward" else both, bytes=moved * grad.nbytes, rounds=30)


def bench_copy(measure: Callable[..., None], device: torch.device) -> None:
    """What memory gives at the largest of these sizes, to hold the rates against."""
    source = torch.randn(BATCH, 24, 128, 128, device=device)
    target = torch.empty_like(source)
    measure(lambda: target.copy_(source), bytes=2 * source.nbytes, rounds=30)
