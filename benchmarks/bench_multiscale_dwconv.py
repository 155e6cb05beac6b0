"""multiscale_dwconv, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import multiscale_dwconv
from aminet_fast.reference.rdfe import multiscale_dwconv_ref

BATCH, KERNELS = 4, (3, 5, 7)
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
Arguments = tuple[list[Tensor], list[Tensor], list[Tensor], Tensor | None]


def arguments(channels: int, device: torch.device, layout: str, of: str) -> Arguments:
    """x, weights, biases, scale: "one input" as in Eq. 7, or "one each" and a scale as in Eq. 9 and 10."""
    side = 128 * 24 // channels
    generator = torch.Generator(device).manual_seed(0)

    def draw(*size: int) -> Tensor:
        t = torch.randn(size, device=device, generator=generator)
        t = t.contiguous(memory_format=LAYOUTS[layout]) if t.dim() == 4 and size[1] > 1 else t
        return t.requires_grad_()

    x = [draw(BATCH, channels, side, side) for _ in (KERNELS if of == "one each" else (0,))]
    weights, biases = [draw(channels, 1, k, k) for k in KERNELS], [draw(channels) for _ in KERNELS]
    return x, weights, biases, draw(BATCH, channels, 1, 1) if of == "one each" else None


def leaves(of: Arguments) -> list[Tensor]:
    x, weights, biases, scale = of
    return [*x, *weights, *biases, *([] if scale is None else [scale])]


def call(function: Callable[..., tuple[Tensor, ...]], of: Arguments) -> tuple[Tensor, ...]:
    x, *others = of
    return function(x if len(x) > 1 else x[0], *others)


def check(of: Arguments, backend: str, dy: list[Tensor]) -> None:
    """No time is worth printing for wrong numbers."""
    x, weights, biases, scale = of
    double = ([t.double() for t in ts] for ts in (x, weights, biases))
    reference = call(multiscale_dwconv_ref, (*double, None if scale is None else scale.double()))
    ours = call(lambda *args: multiscale_dwconv(*args, backend=backend), of)
    for y, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    found = torch.autograd.grad(ours, leaves(of), dy)
    wanted = torch.autograd.grad(reference, leaves(of), [t.double() for t in dy])
    for gradient, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize("run", ["reference", "compiled", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("of", ["one input", "one each"])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_multiscale_dwconv(
    measure: Callable[..., None], device: torch.device, channels: int, layout: str, run: str, of: str, what: str
) -> None:
    choice = backends.explain("multiscale_dwconv", device.type, "auto")
    if run == "auto" and choice.backend == "reference":
        pytest.skip(choice.reason)
    inputs = arguments(channels, device, layout, of)
    dy = [torch.randn_like(inputs[0][0]) for _ in KERNELS]
    check(inputs, "auto" if run == "auto" else "reference", dy)
    function: Callable[..., tuple[Tensor, ...]] = multiscale_dwconv if run == "auto" else multiscale_dwconv_ref
    if run == "compiled":
        torch._dynamo.reset()
        function = torch.compile(multiscale_dwconv_ref)

    def forward() -> None:
        with torch.no_grad():
            call(function, inputs)

    def both() -> None:
        torch.autograd.grad(call(function, inputs), leaves(inputs), dy)

    passes = 1 if what == "forward" else 3  # then the gradients of input and weights
    flops = 2 * passes * sum(k * k for k in KERNELS) * dy[0].numel()
    measure(forward if what == "forward" else both, flops=flops, rounds=30)
