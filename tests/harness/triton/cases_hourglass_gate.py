"""hourglass_gate: axes of one to three pixels (what reflects onto what), blocks that end inside, odd maps."""

from __future__ import annotations

from functools import partial

import torch

from .case import BATCH, NETWORK, Arguments, Case, Draw

IMAGES = ("z", "x", "a", "b")
NORMS = ("x_scale", "x_shift", "a_scale", "a_shift", "b_scale", "b_shift")
ALL = (*IMAGES, *NORMS, "weight", "bias")


def _arguments(
    draw: Draw,
    size: tuple[int, int, int, int],
    maps: int,
    wanted: tuple[str, ...] = ALL,
    contiguous: bool = False,
    parameters: torch.dtype | None = None,
) -> Arguments:
    n, c, h, w = size
    channels = {"z": c, "x": c, "a": maps, "b": maps}
    given = {
        name: draw(n, channels[name], h, w, grad=name in wanted, contiguous=contiguous and name != "z")
        for name in IMAGES
    }
    for name in NORMS:
        given[name] = draw(channels[name[0]], grad=name in wanted, dtype=parameters)
    given["weight"] = draw(1, maps, 3, 3, grad="weight" in wanted, dtype=parameters, fan_in=9 * maps)
    given["bias"] = draw(1, grad="bias" in wanted, dtype=parameters)
    return given


def _case(name: str, size: tuple[int, int, int, int], maps: int, **options: object) -> Case:
    of_case = {k: options.pop(k) for k in ("compile_only", "network", "gradient") if k in options}
    arguments = partial(_arguments, size=size, maps=maps, **options)  # type: ignore[arg-type]
    return Case("hourglass_gate", name, arguments, **of_case)  # type: ignore[arg-type]


CASES = [
    _case("two-images", (2, 24, 7, 11), 5),
    _case("one-pixel", (1, 1, 1, 1), 1),
    _case("one-row", (2, 3, 1, 5), 7),
    _case("one-column", (2, 3, 4, 1), 7),
    _case("two-by-two", (2, 5, 2, 2), 17),
    _case("three-by-two", (1, 5, 3, 2), 2),
    _case("network-maps", (1, 24, 12, 14), 64),
    _case("many-maps", (1, 2, 5, 4), 70),
    _case("contiguous", (2, 6, 5, 3), 4, contiguous=True, gradient="contiguous"),
    _case("expanded", (2, 6, 5, 3), 4, gradient="expanded"),
    _case("float32-parameters", (1, 24, 4, 5), 8, parameters=torch.float32),
    _case("maps-only", (1, 4, 6, 5), 3, wanted=("a", "b")),
    _case("bias-only", (1, 4, 6, 5), 3, wanted=("bias",)),
    _case("z-only", (1, 4, 6, 5), 3, wanted=("z",)),
    _case("beyond-2**31", (3, 1024, 1024, 1024), 512, compile_only=True),
    _case("wide-channels", (2, 1500, 4, 4), 200, compile_only=True),
    *(_case(f"network-{c}", (BATCH, c, side, side), 64, network=True) for c, side in NETWORK),
    *(_case(f"network-{c}-image", (1, c, side, side), 64, compile_only=True) for c, side in NETWORK),
]
