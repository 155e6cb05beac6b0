"""The least time of each operator's passes over the network: bytes, or arithmetic on its best unit.

bfloat16 activations, weights negligible; us on an H200. By operator as it is called, summed over all of its uses.
"""

from __future__ import annotations

from .costs import BANDWIDTH

TENSOR = 600e12  # FLOP/s of mma.sync that can be had
LEVELS = ((24, 128), (48, 64), (96, 32), (192, 16))  # channels and side; two LGFI blocks at each
PARAMETERS = 12_610_914
HIDDEN = 64  # channels inside of the hourglass


def image(batch: int, channels: int, side: int) -> float:
    """us of one pass over an image's bytes."""
    return batch * channels * side * side * 2 / BANDWIDTH * 1e6


def product(batch: int, side: int, inputs: int, outputs: int, taps: int) -> float:
    return 2 * batch * side * side * inputs * outputs * taps / TENSOR * 1e6


def banded(batch: int, side: int, channels: int, passes: int) -> float:
    """Depthwise 3x3 + 5x5 + 7x7 as banded products: 15 m16n8k16 for 128 outputs."""
    return passes * batch * side * side * channels / 128 * 15 * 4096 / TENSOR * 1e6


def floors(batch: int, mode: str) -> dict[str, float]:
    found: dict[str, float] = {}

    def add(name: str, us: float, uses: int = 2) -> None:
        if mode == "train" or not name.partition("_bwd")[1]:
            found[name] = found.get(name, 0.0) + us * uses

    for c, s in LEVELS:
        t, hidden, maps = image(batch, c, s), image(batch, HIDDEN, s), image(batch, 4, s)  # maps: float32, 2 channels
        add("layer_norm2d_fwd", 2 * t)
        add("layer_norm2d_bwd", 3 * t)
        add("channel_attention_fwd", 8 * t)
        add("channel_attention_bwd", 19 * t)
        mix = product(batch, s, 3 * c, c, 1)
        add("rdfe_front_fwd", max(3 * t, banded(batch, s, c, 2) + mix))
        add("rdfe_front_bwd", max(12 * t, banded(batch, s, c, 6) + 3 * mix))
        half = s // 2
        sizes = [(c, c, s, s, 9)] * 2 + [(c, HIDDEN, s, s, 9), (c, HIDDEN, s, half, 9)]
        sizes += [(HIDDEN, HIDDEN, half, half, 9), (HIDDEN, HIDDEN, half, s, 4)]
        for inputs, outputs, before, after, taps in sizes:
            x, y = image(batch, inputs, before), image(batch, outputs, after)
            flops = product(batch, after, inputs, outputs, taps)
            add("norm_act_conv_fwd", max(x + y, flops))
            add("norm_act_conv_bwd", max(2 * y + 2 * x, 2 * flops))  # both gradients in one kernel
        add("hourglass_gate_fwd", 3 * t + 2 * hidden)
        add("hourglass_gate_bwd", 3 * t + 4 * hidden)
        uses = 3 if c < 192 else 2
        dense = product(batch, s, c, c, 74)  # 5x5 and 7x7
        add("skaf_descriptor_fwd", max(t, dense), uses)
        add("skaf_descriptor_bwd_packed", max(t, dense), uses)
        add("skaf_descriptor_bwd_parameters", max(t, dense), uses)
        add("skaf_gate_fwd", 4 * t + 2 * maps)
        add("skaf_gate_bwd", 5 * t + 5 * maps, uses)
        if c < 192:
            add("skaf_gate_fwd", 3 * t + 2 * maps, 1)
        if mode == "train":
            add("channel_moments_fwd", t)
            add("channel_moments_bwd", 2 * t)
            add("torch", 9 * t)  # additions of gradients that are not fused away
    scale = batch / 32 if mode == "train" else batch / 96
    add("torch", 600 * scale, 1)  # cuDNN's head, tail, down, up, reduce; concatenation, PReLU, shuffle
    return found


def optimizer() -> float:
    """us of a fused Adam step: 28 bytes a parameter."""
    return PARAMETERS * 28 / BANDWIDTH * 1e6
