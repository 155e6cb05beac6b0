"""channel_attention, the reference against this package's backend, at the network's four sizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from aminet_fast import backends
from aminet_fast.ops import channel_attention
from aminet_fast.reference.attention import channel_attention_ref

BATCH = 4
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def tensors(channels: int, device: torch.device, layout: str) -> list[Tensor]:
    """x, qkv_weight, dw_weight, temperature, proj_weight."""
    c, heads, side = channels, channels // 24, 128 * 24 // channels
    generator = torch.Generator(device).manual_seed(0)
    sizes = [(BATCH, c, side, side), (3 * c, c, 1, 1), (3 * c, 1, 3, 3), (heads, 1, 1), (c, c, 1, 1)]
    x, qkv, dw, temperature, proj = (torch.randn(size, device=device, generator=generator) for size in sizes)
    drawn = [x, qkv / c**0.5, dw / 3, temperature, proj / c**0.5]
    memory_format = LAYOUTS[layout]
    return [(t.contiguous(memory_format=memory_format) if t.dim() == 4 else t).requires_grad_() for t in drawn]


def check(arguments: list[Tensor], heads: int, backend: str) -> None:
    """No time is worth printing for wrong numbers."""
    grad = torch.randn_like(arguments[0])
    ours = channel_attention(*arguments, heads, backend=backend)
    reference = channel_attention_ref(*(a.double() for a in arguments), heads)
    pairs = zip(
        [ours, *torch.autograd.grad(ours, arguments, grad)],
        [reference, *torch.autograd.grad(reference, arguments, grad.double())],
        strict=True,
    )
    for found, expected in pairs:
        torch.testing.assert_close(
            found, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item(), check_dtype=False
        )


@pytest.mark.parametrize("run", ["reference", "compiled", "auto"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [24, 48, 96, 192])
@pytest.mark.parametrize("what", ["forward", "forward+backward"])
def bench_channel_attention(
    measure: Callable[..., None], device: torch.device, channels: int, layout: str, run: str, what: str
) -> None:
    choice = backends.explain("channel_attention", device.type, "auto")
    if run == "auto" and choice.backend == "reference":
        pytest.skip(choice.reason)
    arguments, heads = tensors(channels, device, layout), channels // 24
    check(arguments, heads, "auto" if run == "auto" else "reference")
    function: Callable[..., Tensor] = channel_attention if run == "auto" else channel_attention_ref
    if run == "compiled":
        torch._dynamo.reset()
        function = torch.compile(channel_attention_ref)
    grad = torch.randn_like(arguments[0])

    def forward() -> None:
        with torch.no_grad():
            function(*arguments, heads)

    def both() -> None:
        torch.autograd.grad(function(*arguments, heads), arguments, grad)

    # Of a pixel: 1x1, depthwise, q k^T and attn v in each head, projection; the backward is twice that.
    multiplications = 3 * channels**2 + 27 * channels + 2 * 24 * channels + channels**2
    flops = 2 * multiplications * grad.numel() / channels
    measure(forward if what == "forward" else both, flops=flops if what == "forward" else 3 * flops, rounds=30)
