"""skaf_gate: maps smaller than the kernel, runs that cross rows and images, subsets of gradients, odd kernels."""

from __future__ import annotations

from functools import partial

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw

ALL = ("m", "weight", "bias", "g", "local", "residual")


def _arguments(
    draw: Draw,
    size: tuple[int, int, int, int],
    kernel: int = 7,
    wanted: tuple[str, ...] = ALL,
    residual: bool = True,
    contiguous: bool = False,
    parameters: torch.dtype | None = None,
) -> Arguments:
    n, _, h, w = size
    given = {
        "m": draw(n, 2, h, w, grad="m" in wanted, dtype=parameters, contiguous=True),
        "weight": draw(2, 2, kernel, kernel, grad="weight" in wanted, dtype=parameters, fan_in=kernel * kernel),
        "bias": draw(2, grad="bias" in wanted, dtype=parameters),
        "g": draw(*size, grad="g" in wanted, contiguous=contiguous),
        "local": draw(*size, grad="local" in wanted),
    }
    if residual:
        given["residual"] = draw(*size, grad="residual" in wanted)
    return given


def _case(name: str, size: tuple[int, int, int, int], **options: object) -> Case:
    of_case = {k: options.pop(k) for k in ("compile_only", "network", "gradient") if k in options}
    return Case("skaf_gate", name, partial(_arguments, size=size, **options), **of_case)  # type: ignore[arg-type]


CASES = [
    _case("two-images", (2, 24, 5, 7)),
    _case("one-pixel", (1, 1, 1, 1)),
    _case("edff", (2, 3, 9, 4), residual=False),
    _case("long-rows", (1, 5, 2, 131), kernel=3),
    _case("kernel-1", (2, 7, 3, 5), kernel=1),
    _case("kernel-9", (1, 2, 11, 6), kernel=9),
    _case("contiguous", (2, 6, 5, 3), contiguous=True, gradient="contiguous"),
    _case("expanded", (2, 6, 5, 3), gradient="expanded"),
    _case("float32-parameters", (1, 24, 4, 5), parameters=torch.float32),
    _case("map-only", (1, 4, 6, 5), wanted=("m",)),
    _case("weight-only", (1, 4, 6, 5), wanted=("weight",)),
    _case("bias-and-g", (1, 4, 6, 5), wanted=("bias", "g")),
    _case("branches-only", (1, 4, 6, 5), wanted=("local", "residual")),
    _case("residual-only", (1, 4, 6, 5), wanted=("residual",)),
    _case("many-images", (70000, 1, 1, 2), compile_only=True),
    _case("beyond-2**31", (3, 1024, 1024, 1024), compile_only=True),
    _case("wide-channels", (2, 1500, 4, 4), compile_only=True),
    _case("large-kernel", (2, 5, 40, 40), kernel=15, compile_only=True),
    *(_case(f"network-{c}", (BATCH, c, side, side), network=True) for c, side in NETWORK),
    *(_case(f"network-{c}-image", (1, c, side, side), compile_only=True) for c, side in NETWORK),
]
