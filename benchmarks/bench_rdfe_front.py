"""rdfe_front, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.config import AMINetConfig
from aminet_fast.ops import rdfe_front
from aminet_fast.reference import RDFE
from aminet_fast.reference.rdfe import rdfe_front_ref

BATCH = 4
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
Front = Callable[[Tensor], Tensor]


def flops(channels: int, pixels: int, what: str) -> float:
    """Of depthwise taps (83, twice) and the fusion; backward computes f' again, and each convolution has two more."""
    forward = 2 * pixels * (166 * channels + 3 * channels**2)
    return forward if what == "forward" else 4 * forward - 2 * pixels * 3 * channels**2


def fronts(module: RDFE) -> dict[str, Front]:
    return {
        "reference": lambda y: rdfe_front_ref(y, *module.front_parameters()),
        "auto": lambda y: rdfe_front(y, *module.front_parameters()),
    }


def check(module: RDFE, y: Tensor, leaves: list[Tensor], front: Front) -> None:
    """No time is worth printing for wrong numbers."""
    grad = torch.randn_like(y)
    double = RDFE(y.shape[1], module.config).to(y.device, torch.float64)
    double.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    y64 = y.detach().double().requires_grad_()
    ours, reference = front(y), double.front(y64)
    torch.testing.assert_close(ours.double(), reference, rtol=1e-5, atol=1e-5)
    pairs = zip(
        torch.autograd.grad(ours, leaves, grad),
        torch.autograd.grad(reference, [y64, *double.parameters()], grad.double()),
        strict=True,
    )
    for found, expected in pairs:
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("run", ["reference", "compiled", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_rdfe_front(
    measure: Callable[..., None], device: torch.device, channels: int, layout: str, run: str, what: str
) -> None:
    choice = backends.explain("rdfe_front", device.type, "auto")
    if run == "auto" and choice.backend == "reference":
        pytest.skip(choice.reason)
    torch.manual_seed(0)
    side = 128 * 24 // channels
    module = RDFE(channels, AMINetConfig(frm=False)).to(device, memory_format=LAYOUTS[layout])
    y = torch.randn(BATCH, channels, side, side, device=device).contiguous(memory_format=LAYOUTS[layout])
    leaves = [y.requires_grad_(), *module.parameters()]
    front = fronts(module)["auto" if run == "auto" else "reference"]
    check(module, y, leaves, front)
    if run == "compiled":
        torch._dynamo.reset()
        front = torch.compile(front)
    grad = torch.randn_like(y)

    def forward() -> None:
        with torch.no_grad():
            front(y)

    def both() -> None:
        torch.autograd.grad(front(y), leaves, grad)

    measure(forward if what == "forward" else both, flops=flops(channels, y.numel() // channels, what), rounds=10)
