"""What the compiled CPU kernels do with single numbers: rounding to 16 bits, numbers too small, no numbers at all."""

from __future__ import annotations

import pytest
import torch

from aminet_fast.ops import multiscale_dwconv, skaf_gate
from tests.ops.multiscale_dwconv_inputs import compiled_only

pytestmark = compiled_only
TINY = torch.finfo(torch.float32).smallest_normal  # of bfloat16, too


def times(x: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    """x [N, C, H, W] * factor as the middle tap of a convolution, whose other taps are 0."""
    weight = torch.zeros(x.shape[1], 1, 3, 3)
    weight[:, :, 1, 1] = factor
    return multiscale_dwconv(x, [weight], [None], backend="cpu")[0]


@pytest.mark.parametrize("channels", [32, 7])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_all_finite_numbers_are_rounded_as_torch_rounds_them(dtype: torch.dtype, channels: int) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite() & ((every == 0) | (every.abs() >= TINY))]
    every = every[: len(every) // (channels * 8) * channels * 8]
    x = every.view(1, channels, 8, -1).contiguous(memory_format=torch.channels_last)
    ties = 0
    for factor in (1.0, 1.00390625, 1.001953125, 0.7, 3.0):  # 1 + 2^-8 and 1 + 2^-9: half-way between neighbours
        product = x.float() * factor
        wanted = product.to(dtype)
        normal = (wanted == 0) | (wanted.abs() >= TINY)
        assert torch.equal(times(x, factor)[normal], wanted[normal])
        ties += int(((product.view(torch.int32) & 0xFFFF) == 0x8000).sum())
    assert dtype == torch.float16 or ties > 1000


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_infinities_and_nan_stay(dtype: torch.dtype) -> None:
    x = torch.ones(1, 16, 4, 12, dtype=dtype)
    for column, value in ((1, float("inf")), (5, float("-inf")), (9, float("nan"))):
        x[..., 1, column] = value
    y = times(x, 2.0)
    assert (y[..., 1, 1] == float("inf")).all()
    assert (y[..., 1, 5] == float("-inf")).all()
    assert y[..., 1, 9].isnan().all()
    assert y[..., 3, :].eq(2).all()
    largest = torch.full((1, 16, 4, 4), torch.finfo(dtype).max, dtype=dtype)
    assert times(largest, 2.0).isinf().all()
    for bits in (0x7FFFFFFF, -1):  # NaN whose bits, rounded up as those of a number, are those of -0 and 0
        nan = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
        assert times(torch.ones(1, 16, 4, 4, dtype=dtype), nan).isnan().all()


def test_gradients_through_saturated_gates_are_zero_and_not_denormal() -> None:
    """Arithmetic with denormal numbers takes some hundred cycles each, and trained networks are full of such gates."""
    m = torch.zeros(1, 2, 8, 8, requires_grad=True)
    weight, bias = torch.zeros(2, 2, 7, 7), torch.full((2,), -80.0)  # sigmoid: 2e-35
    g, local = (torch.full((1, 16, 8, 8), 1e-5, requires_grad=True) for _ in range(2))
    skaf_gate(m, weight, bias, g, local, backend="cpu").backward(torch.full((1, 16, 8, 8), 1e-4))
    assert g.grad is not None
    assert local.grad is not None
    assert torch.equal(g.grad, torch.zeros_like(g))
    assert torch.equal(local.grad, torch.zeros_like(local))
    assert (torch.full((64,), 1e-40) * 1.0).ne(0).all()  # the caller's arithmetic is as it was


OPERATORS = torch.ops.aminet_fast


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (1, 8, 0, 4), (1, 8, 4, 0)], ids=str)
def test_operators_themselves_refuse_empty_images(shape: tuple[int, ...]) -> None:
    """An exported graph calls them without the public functions' checks."""
    x, w = torch.empty(shape), [torch.ones(8, 1, k, k) for k in (3, 5, 7)]
    m = torch.empty(shape[0], 2, *shape[2:])
    dense = [torch.ones(8, 8, k, k) for k in (5, 7)]
    biases = [torch.ones(8)] * 2
    calls = [
        lambda: OPERATORS.multiscale_dwconv_fwd([x], w, [torch.ones(8)] * 3, None),
        lambda: OPERATORS.skaf_gate_fwd(m, torch.ones(2, 2, 7, 7), torch.ones(2), x, x, None),
        lambda: OPERATORS.skaf_descriptor_fwd(x, dense, biases, None),
    ]
    for call in calls:
        with pytest.raises(RuntimeError, match="every size at least 1"):
            call()


def test_operators_themselves_refuse_other_dtypes_beside_their_data() -> None:
    g, m = torch.ones(1, 8, 4, 4), torch.ones(1, 2, 4, 4)
    for local, residual in ((g.bfloat16(), None), (g, g.bfloat16())):
        with pytest.raises(RuntimeError, match=r"skaf_gate: .* as g"):
            OPERATORS.skaf_gate_fwd(m, torch.ones(2, 2, 7, 7), torch.ones(2), g, local, residual)
