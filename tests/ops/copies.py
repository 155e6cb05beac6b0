"""``python -m tests.ops.copies``: some of each operator's grid, by the copy of the CPU kernels that this process runs.

Prints which copy that is, then the name of each operator whose numbers were right.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from aminet_fast.ops._library import DTYPES
from aminet_fast.ops.extension import load
from tests.harness.layouts import LAYOUTS, laid_out
from tests.ops import (
    channel_attention_inputs,
    hourglass_gate_inputs,
    layer_norm2d_inputs,
    multiscale_dwconv_inputs,
    norm_act_conv_inputs,
    rdfe_front_inputs,
    skaf_gate_inputs,
    test_channel_attention,
    test_skaf_descriptor,
    test_skaf_descriptor_winograd,
)


def channel_attention() -> None:
    inputs_of = channel_attention_inputs
    for dtype in DTYPES:
        for layout in LAYOUTS[:2]:
            for shape, heads in inputs_of.SHAPES[1:7:2]:
                inputs, dy = inputs_of.arguments(shape, heads, dtype)
                inputs_of.check(test_channel_attention.stored(inputs, layout), heads, dy, "cpu")


def hourglass_gate() -> None:
    for dtype in DTYPES:
        for shape in hourglass_gate_inputs.SHAPES[2:5]:
            *inputs, dy = hourglass_gate_inputs.arguments(shape, dtype)
            hourglass_gate_inputs.check(inputs, dy, "cpu")


def layer_norm2d() -> None:
    for dtype in DTYPES:
        for layout in LAYOUTS:
            for shape in layer_norm2d_inputs.SHAPES[1:3]:
                x, weight, bias, dy = layer_norm2d_inputs.arguments(shape, dtype)
                layer_norm2d_inputs.check(laid_out(x, layout), weight, bias, laid_out(dy, layout), "cpu")


def multiscale_dwconv() -> None:
    case, check = multiscale_dwconv_inputs.case, multiscale_dwconv_inputs.check
    for dtype in DTYPES:
        for shape in multiscale_dwconv_inputs.SHAPES[1:3]:
            check(case(shape, dtype).stored(["channels_last"]))
            check(case(shape, dtype, (9, 7, 3), shared=False, scaled=True))


def norm_act_conv() -> None:
    inputs_of = norm_act_conv_inputs
    for dtype in DTYPES[:3]:
        for options in inputs_of.OPTIONS:
            for shape in inputs_of.SHAPES[2:5]:
                inputs_of.check(inputs_of.stored(inputs_of.arguments(shape, dtype), "channels_last"), options, "cpu")


def rdfe_front() -> None:
    for dtype in DTYPES:
        for shape in rdfe_front_inputs.SHAPES[1:6:2]:
            inputs, dz = rdfe_front_inputs.arguments(shape, dtype)
            rdfe_front_inputs.check(rdfe_front_inputs.stored(inputs, "channels_last"), dz, "cpu")


def skaf_descriptor() -> None:
    for dtype in DTYPES:
        for shape in test_skaf_descriptor.SHAPES[1:3]:
            test_skaf_descriptor.check(test_skaf_descriptor.arguments(shape, dtype))


def skaf_descriptor_winograd() -> None:
    """Each copy holds another number of channels in a vector."""
    for channels, outputs in ((8, 3), (13, 50), (31, 97)):
        for height, width in ((1, 5), (7, 8), (14, 21)):
            inputs = test_skaf_descriptor_winograd.arguments(
                (2, channels, height, width), torch.float32, outputs=outputs
            )
            test_skaf_descriptor_winograd.check(inputs, winograd=True)
    test_skaf_descriptor_winograd.test_the_first_of_equal_channels(40)


def skaf_gate() -> None:
    for dtype in DTYPES:
        for layout in LAYOUTS[:2]:
            for shape in skaf_gate_inputs.SHAPES[1:4:2]:
                *inputs, dy = skaf_gate_inputs.arguments(shape, dtype)
                skaf_gate_inputs.check(skaf_gate_inputs.stored(inputs, [layout]), laid_out(dy, layout), "cpu")


CHECKS: tuple[Callable[[], None], ...] = (
    channel_attention,
    hourglass_gate,
    layer_norm2d,
    multiscale_dwconv,
    norm_act_conv,
    rdfe_front,
    skaf_descriptor,
    skaf_descriptor_winograd,
    skaf_gate,
)

if __name__ == "__main__":
    module, problem = load("_C")
    if module is None:
        raise SystemExit(problem)
    print(module.cpu_capability(), flush=True)
    for check in CHECKS:
        check()
        print(check.__name__, flush=True)
