"""The tables of arguments: what they take, what they return, and their words."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from aminet_fast.ops._arguments import arguments, image, odd_sizes, parameter

take = arguments(
    "operator",
    image("x"),
    image("z", "[N, M, H, W]", optional=True),
    parameter("weight", "[K, 3*C, k, k] of odd k"),
    parameter("steps", "[K, size[i]]", listed=True, optional=True),
    given=("size",),
)


def example(**others: Any) -> dict[str, Any]:
    x, z = torch.ones(2, 4, 5, 6), torch.ones(2, 7, 5, 6)
    steps = [torch.ones(8, 1), None, torch.ones(8, 3)]
    return {"x": x, "z": z, "weight": torch.ones(8, 12, 3, 3), "steps": steps} | others


def test_what_fits_comes_back_and_images_enter() -> None:
    given = example(steps=tuple(example()["steps"]))
    x, z, weight, steps = take(*given.values(), size=[1, 2, 3])
    assert (x is given["x"], z is given["z"], weight is given["weight"]) == (True, True, True)
    assert isinstance(steps, list)
    assert [step is before for step, before in zip(steps, given["steps"], strict=True)] == [True] * 3
    assert take(*example(z=None).values(), size=[1, 2, 3])[1] is None
    with torch.autocast("cpu", torch.bfloat16):
        x, z, weight, _ = take(*example(z=example()["z"].bfloat16()).values(), size=[1, 2, 3])
    assert (x.dtype, z.dtype, weight.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("others", "error", "words"),
    [
        ({"x": 1}, TypeError, "x must be a tensor, got int"),
        ({"x": torch.ones(2, 4, 5)}, ValueError, r"x must be \[N, C, H, W\] with every size at least 1, got .* \[2, 4"),
        (
            {"z": torch.ones(2, 7, 5, 6).int()},
            TypeError,
            "z must be one of float32, float64, bfloat16",
        ),
        ({"z": torch.ones(2, 7, 5, 6).half()}, TypeError, "z must have x's dtype torch.float32, got float16"),
        ({"z": torch.ones(2, 0, 5, 6)}, ValueError, r"z must be \[2, M, 5, 6\] beside x \[2, 4, 5, 6\], got float32"),
        ({"z": torch.ones(1, 7, 5, 6)}, ValueError, r"z must be \[2, 7, 5, 6\] beside x"),
        ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
        ({"weight": torch.ones(8, 12, 3, 3).half()}, TypeError, "weight must have x's dtype torch.float32 or float32"),
        ({"weight": torch.ones(8, 4, 3, 3)}, ValueError, r"weight must be \[K, 12, k, k\] of odd k beside x"),
        ({"weight": torch.ones(8, 12, 4, 4)}, ValueError, r"weight must be \[K, 12, k, k\] of odd k"),
        ({"weight": torch.ones(8, 12, 3)}, ValueError, r"weight must be \[K, 12, k, k\] of odd k"),
        ({"weight": torch.ones(8, 12, 3, 3, device="meta")}, ValueError, "weight is on meta and x on cpu; move them"),
        (
            {"steps": [None, torch.ones(8, 3)]},
            ValueError,
            r"steps\[1\] must be \[8, 2\] beside x",
        ),
        ({"steps": [1.0]}, TypeError, r"steps\[0\] must be a tensor, got float"),
    ],
)
def test_what_does_not_fit_is_named(others: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^operator: {words}"):
        take(*example(**others).values(), size=[1, 2, 3])


def test_odd_sizes_are_kernels() -> None:
    weights = [torch.ones(2, 1, 5, 5), torch.ones(2, 1, 4, 4), torch.ones(5), None]
    assert odd_sizes(weights) == [5, "K odd", "K odd", "K odd"]
