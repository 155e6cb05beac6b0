"""What the machine gives: copies, a large product, and cuDNN's convolutions of FRM and SKAF at their sizes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .clock import by_device
from .run import Run

PASSES = ("forward", "dgrad", "wgrad")
COPY_BYTES, GEMM_SIDE = 2**31, 8192


def ceilings(run: Run) -> None:
    count = (2**16 if run.tiny else COPY_BYTES) // 2
    source = torch.randn(count, device=run.device, dtype=torch.bfloat16)
    target = torch.empty_like(source)
    us, _ = by_device(run, lambda: target.copy_(source), graph=False)
    run.write("ceiling", what="copy", bytes=2 * source.nbytes, us=us, gb_per_s=2 * source.nbytes / us / 1e3)
    side = 64 if run.tiny else GEMM_SIDE
    for dtype in (torch.bfloat16, torch.float32):
        a, b = (torch.randn(side, side, device=run.device, dtype=dtype) for _ in range(2))
        us, _ = by_device(run, lambda a=a, b=b: a @ b, graph=False)  # type: ignore[misc]
        run.write("ceiling", what="product", side=side, dtype=name_of(dtype), us=us, tflops=2 * side**3 / us / 1e6)


@dataclass(frozen=True)
class Layer:
    name: str
    channels: int  # of the network's stage
    c_in: int
    c_out: int
    side: int  # of the input
    kernel: int = 3
    stride: int = 1
    bias: bool = False


def layers(run: Run) -> Iterator[Layer]:
    """FRM's convolutions and SKAF's, at the four sizes of the network."""
    config, side = run.sizes.config(), run.sizes.side
    wide = config.hourglass_width
    for stage in range(4):
        c, s = config.width << stage, side >> stage
        yield Layer("frm", c, c, c, s)
        yield Layer("b1", c, c, wide, s)
        yield Layer("b2", c, c, wide, s, stride=2)
        yield Layer("plus", c, wide, wide, max(s // 2, 1))
        yield Layer("b3", c, wide, wide, s)
        yield Layer("gate", c, wide, 1, s, bias=True)
        yield Layer("conv5", c, c, c, s, kernel=5, bias=True)
        yield Layer("conv7", c, c, c, s, kernel=7, bias=True)


def convolutions(run: Run) -> None:
    """Each pass alone, in bfloat16 and channels_last, with the fastest algorithm that cuDNN finds."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        for layer in run.each(layers(run), "convolutions", once=True):
            one_layer(run, layer)
    finally:
        torch.backends.cudnn.benchmark = before


def one_layer(run: Run, layer: Layer) -> None:
    n, k = run.sizes.batch, layer.kernel
    x = drawn(run, n, layer.c_in, layer.side, layer.side)
    weight = drawn(run, layer.c_out, layer.c_in, k, k)
    bias = torch.zeros(layer.c_out, device=run.device, dtype=torch.bfloat16) if layer.bias else None
    stride, padding = [layer.stride] * 2, [k // 2] * 2
    y = torch.nn.functional.conv2d(x, weight, bias, stride, padding)
    dy = torch.randn_like(y)

    def gradient(of: int) -> None:
        mask = [of == i for i in range(3)]
        shape = [layer.c_out] if layer.bias else None
        torch.ops.aten.convolution_backward(dy, x, weight, shape, stride, padding, [1, 1], False, [0, 0], 1, mask)

    work = (
        lambda: torch.nn.functional.conv2d(x, weight, bias, stride, padding),
        lambda: gradient(0),
        lambda: gradient(1),
    )
    flops = 2 * y.numel() * layer.c_in * k * k
    for name, call in zip(PASSES, work, strict=True):
        us, _ = by_device(run, call, graph=False)
        size = f"{layer.channels}@{run.sizes.side * run.sizes.config().width // layer.channels}"
        about = {"layer": layer.name, "size": size, "c_in": layer.c_in, "c_out": layer.c_out, "side": layer.side}
        run.write("convolution", **about, kernel=k, stride=layer.stride, what=name, us=us, tflops=flops / us / 1e6)


def drawn(run: Run, *shape: int) -> Tensor:
    t = torch.randn(shape, device=run.device, dtype=torch.bfloat16)
    return t.contiguous(memory_format=torch.channels_last)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
