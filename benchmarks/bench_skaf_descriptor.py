"""skaf_descriptor, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import skaf_descriptor
from aminet_fast.reference.skaf import skaf_features_ref

BATCH, KERNELS = 4, (5, 7)
Arguments = tuple[Tensor, list[Tensor], list[Tensor]]


def tensors(channels: int, device: torch.device, memory_format: torch.memory_format) -> Arguments:
    side = 128 * 24 // channels
    generator = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, device=device, generator=generator)

    x = normal(BATCH, channels, side, side)
    weights = [normal(channels, channels, k, k) / (k * channels**0.5) for k in KERNELS]
    x, *weights = (t.contiguous(memory_format=memory_format).requires_grad_() for t in (x, *weights))
    return x, weights, [normal(channels).requires_grad_() for _ in KERNELS]


def flat(arguments: Arguments) -> list[Tensor]:
    return [arguments[0], *arguments[1], *arguments[2]]


def check(arguments: Arguments, backend: str) -> None:
    """No time is worth printing for wrong numbers."""
    x, weights, biases = arguments
    oracle = (x.double(), [w.double() for w in weights], [b.double() for b in biases])
    ours, expected = skaf_descriptor(*arguments, backend=backend), skaf_descriptor(*oracle, backend="reference")
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        first, second = skaf_features_ref(*oracle).topk(2, dim=1).values.unbind(1)
    # Where two channels are as good as equal, the max may be another one in float64.
    grad = torch.randn_like(ours) * (first - second > 1e-3)[:, None]
    found = torch.autograd.grad(ours, flat(arguments), grad)
    wanted = torch.autograd.grad(expected, flat(oracle), grad.double())
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("backend", ["reference", "reference-nchw", "auto"])
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "backward", "forward+backward"])
def bench_skaf_descriptor(
    measure: Callable[..., None], device: torch.device, channels: int, backend: str, what: str
) -> None:
    backend, _, layout = backend.partition("-")
    choice = backends.explain("skaf_descriptor", device.type, backend)
    if backend != "reference" and choice.backend == "reference":
        pytest.skip(choice.reason)
    arguments = tensors(channels, device, torch.contiguous_format if layout else torch.channels_last)
    check(arguments, backend)
    inputs = flat(arguments)
    m = skaf_descriptor(*arguments, backend=backend)
    grad = torch.randn_like(m)

    def forward() -> None:
        with torch.no_grad():
            skaf_descriptor(*arguments, backend=backend)

    def backward() -> None:
        torch.autograd.grad(m, inputs, grad, retain_graph=True)

    def both() -> None:
        torch.autograd.grad(skaf_descriptor(*arguments, backend=backend), inputs, grad)

    dense = 2 * arguments[0].numel() * sum(w[0].numel() for w in arguments[1])
    function, flops = {
        "forward": (forward, dense),
        "backward": (backward, 2 * dense),
        "forward+backward": (both, 3 * dense),
    }[what]
    # FLOPs of the dense convolutions, so that rates of the reference and of what does less compare.
    measure(function, flops=flops, rounds=10)
