"""norm_act_conv, the reference against this package's backend, in the layers of FRM at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import norm_act_conv
from aminet_fast.reference.frm import norm_act_conv_ref

BATCH, WIDTH = 4, 64
# layer: (inputs, outputs, side of the map relative to FRM's, options); None for FRM's channels.
LAYERS: dict[str, tuple[int | None, int | None, float, tuple[float, int, str, bool]]] = {
    "conv": (None, None, 1, (0.2, 1, "zeros", False)),
    "b1": (None, WIDTH, 1, (1.0, 1, "reflect", False)),
    "b2": (None, WIDTH, 1, (1.0, 2, "reflect", False)),
    "plus": (WIDTH, WIDTH, 0.5, (0.2, 1, "reflect", False)),
    "b3": (WIDTH, WIDTH, 0.5, (0.2, 1, "reflect", True)),
}


def tensors(channels: int, layer: str, device: torch.device) -> tuple[list[Tensor], tuple[float, int, str, bool]]:
    """x, scale, shift, weight, and the options behind them."""
    inputs, outputs, side, options = LAYERS[layer]
    c, k, size = inputs or channels, outputs or channels, int(128 * 24 // channels * side)
    generator = torch.Generator(device).manual_seed(0)
    sizes = [(BATCH, c, size, size), (c,), (c,), (k, c, 3, 3)]
    drawn = [torch.randn(s, device=device, generator=generator) for s in sizes]
    drawn[3] /= 3 * c**0.5
    last = torch.channels_last
    return [(t.contiguous(memory_format=last) if t.dim() == 4 else t).requires_grad_() for t in drawn], options


def check(arguments: list[Tensor], options: tuple[float, int, str, bool], backend: str) -> None:
    """No time is worth printing for wrong numbers."""
    ours = norm_act_conv(*arguments, *options, backend=backend)
    reference = norm_act_conv_ref(*(a.double() for a in arguments), *options)
    grad = torch.randn_like(reference[0])
    torch.testing.assert_close(ours[0].double(), reference[0], rtol=1e-4, atol=1e-5)
    found = torch.autograd.grad(ours[0], arguments, grad.float())
    for one, two in zip(found, torch.autograd.grad(reference[0], arguments, grad), strict=True):
        torch.testing.assert_close(one, two.float(), rtol=1e-3, atol=1e-4 * two.abs().max().item())


@pytest.mark.parametrize("run", ["reference", "auto"])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_norm_act_conv(
    measure: Callable[..., None], device: torch.device, channels: int, layer: str, run: str, what: str
) -> None:
    choice = backends.explain("norm_act_conv", device.type, "auto")
    if run == "auto" and choice.backend == "reference":
        pytest.skip(choice.reason)
    arguments, options = tensors(channels, layer, device)
    check(arguments, options, run)
    function: Callable[..., tuple[Tensor, ...]] = norm_act_conv if run == "auto" else norm_act_conv_ref
    grads = [torch.randn_like(t) for t in function(*arguments, *options)]

    def forward() -> None:
        with torch.no_grad():
            function(*arguments, *options)

    def both() -> None:
        torch.autograd.grad(function(*arguments, *options), arguments, grads)

    measure(forward if what == "forward" else both, bytes=arguments[0].nbytes + grads[0].nbytes, rounds=15)
