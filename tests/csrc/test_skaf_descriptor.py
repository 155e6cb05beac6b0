"""skaf_descriptor's CUDA kernels on the emulator, beyond the cases of all kernels: packed weights, ties, NaN, TF32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from aminet_fast.ops import _library
from aminet_fast.reference.skaf import skaf_features_ref
from tests.harness.cuda import build
from tests.harness.triton.case import tf32_products
from tests.tolerances import FORWARD, assert_close, rounded_to_tf32

if reason := build.problem():
    pytest.skip(reason, allow_module_level=True)


pytestmark = pytest.mark.gpuless


@pytest.fixture(scope="module")
def forward():
    torch.ops.load_library(build.library(build.ROOT / "csrc" / "cuda" / "skaf_descriptor.cu"))
    return torch.ops.aminet_fast_emulated.skaf_descriptor_fwd


WAYS = [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False)]


def drawn(c: int, dtype: torch.dtype, h: int = 9, w: int = 20) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    weights = [torch.randn(c, c, k, k) / (c * k * k) ** 0.5 for k in (5, 7)]
    return torch.randn(1, c, h, w).to(dtype), weights, [torch.randn(c) for _ in weights]


def wanted(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: m, argmax, and how far the maximum is from the next channel."""
    u = skaf_features_ref(x.double(), [w.double() for w in weights], [b.double() for b in biases])
    first, second = u.topk(2, 1).values.unbind(1)
    return torch.stack([u.mean(1), first], 1), u.argmax(1).int(), first - second


def laid_out(weights: list[Tensor], dtype: torch.dtype) -> Tensor:
    """As kernels/skaf_descriptor.py packs them; their mean behind them is not read here."""
    rows = torch.cat([pad(weights[0], (1, 1, 1, 1)), weights[1], torch.full((1, *weights[1].shape[1:]), torch.nan)])
    return rows.permute(0, 2, 3, 1).to(dtype).flatten()


def test_packed_weights_are_those_that_it_would_make(forward) -> None:
    x, weights, biases = drawn(16, torch.bfloat16)
    packed = laid_out(weights, torch.bfloat16)
    m, argmax = forward(x, weights, biases, None)
    for one, other in zip(forward(x, weights, biases, packed), (m, argmax), strict=True):
        assert torch.equal(one, other)
    doubled = [2 * w for w in weights]
    assert torch.equal(forward(x, weights, biases, 2 * packed)[0], forward(x, doubled, biases, None)[0])
    x = x.half()  # for which packed weights are not
    assert torch.equal(forward(x, weights, biases, 2 * packed)[0], forward(x, weights, biases, None)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_gradient_of_x_takes_packed_weights_too(forward, dtype: torch.dtype) -> None:
    x, weights, biases = drawn(16, dtype)
    m, argmax = forward(x, weights, biases, None)
    ops = torch.ops.aminet_fast_emulated
    plain, backward = ops.skaf_descriptor_bwd_input, ops.skaf_descriptor_bwd_packed
    wanted, doubled = plain(m, argmax, weights), [2 * w for w in weights]
    assert torch.equal(backward(m, argmax, weights, laid_out(weights, dtype)), wanted)
    assert torch.equal(backward(m, argmax, weights, laid_out(doubled, dtype)), plain(m, argmax, doubled))
    assert torch.equal(backward(m, argmax, weights, laid_out(doubled, torch.float16)), wanted)  # of another dtype


@pytest.mark.parametrize(("dtype", "tf32"), WAYS)
def test_the_first_of_equals_is_the_maximum(forward, dtype: torch.dtype, tf32: bool) -> None:
    x, weights, _ = drawn(30, dtype)
    bias = torch.zeros(30)
    bias[[7, 25]] = 1.0
    m, argmax = forward(torch.zeros_like(x), weights, [bias, bias], None, tf32=tf32)
    assert argmax.unique().tolist() == [7]
    torch.testing.assert_close(m[:, 1], torch.ones_like(m[:, 1]))


@pytest.mark.parametrize(("dtype", "tf32"), WAYS)
def test_nan_is_the_maximum_where_it_is_in_reach(forward, dtype: torch.dtype, tf32: bool) -> None:
    x, weights, biases = drawn(8, dtype)
    x[0, 3, 4, 10] = float("nan")
    m, argmax = forward(x, weights, biases, None, tf32=tf32)
    rows, columns = torch.arange(9)[:, None], torch.arange(20)[None]
    far = torch.maximum((rows - 4).abs(), (columns - 10).abs())
    assert torch.equal(m[0, 1].isnan(), far <= 3)
    assert torch.equal(argmax[0] == 0, (far <= 2) | (argmax[0] == 0) & (far > 3))
    assert (argmax[0][far == 3] == 8).all()  # the first channel of the larger convolution


# Large tiles for few outputs and for more, channels in one chunk and in several; small tiles; no whole vectors.
@pytest.mark.parametrize(("c", "h", "w"), [(24, 18, 20), (30, 9, 33), (56, 5, 7), (7, 9, 20)])
def test_tf32_products_are_those_of_rounded_factors(forward, c: int, h: int, w: int) -> None:
    """As exactly as float32 has it, and therefore not cut off, as unrounded factors would be."""
    x, weights, biases = drawn(c, torch.float32, h, w)
    m, argmax = forward(x, weights, biases, None, tf32=True)
    expected, channel, settled = wanted(rounded_to_tf32(x), [rounded_to_tf32(w) for w in weights], biases)
    assert_close(m, expected, FORWARD, "m")
    assert torch.equal(argmax[settled > 1e-4], channel[settled > 1e-4])
    assert (m - wanted(x, weights, biases)[0]).abs().max() > 1e-4


def test_packed_weights_that_nobody_rounded_are_not_used_in_tf32(forward) -> None:
    x, weights, biases = drawn(16, torch.float32)
    packed = torch.cat([pad(weights[0], (1, 1, 1, 1)), weights[1]]).permute(0, 2, 3, 1).flatten()
    m = forward(x, weights, biases, None, tf32=True)[0]
    assert torch.equal(forward(x, weights, biases, packed, tf32=True)[0], m)
    assert torch.equal(forward(x, weights, biases, packed)[0], forward(x, weights, biases, None)[0])


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tf32_is_taken_where_torch_allows_it_and_nowhere_else(forward, dtype: torch.dtype, allowed: bool) -> None:
    x, weights, biases = drawn(16, dtype)
    with tf32_products(allowed):
        assert _library._implemented["skaf_descriptor_fwd"](x, weights, biases) == ""
        m = _library.call_compiled(_library.EMULATED, "skaf_descriptor_fwd", (x, weights, biases))[0]
    assert torch.equal(m, forward(x, weights, biases, None, tf32=allowed)[0])
    if dtype == torch.float32:
        assert not torch.equal(m, forward(x, weights, biases, None, tf32=not allowed)[0])
        near = (m - wanted(x, weights, biases)[0]).abs().max() < 2e-5
        assert near != allowed


def test_refuses_what_it_does_not_take() -> None:
    x, weights, biases = drawn(8, torch.bfloat16)
    refuses = _library._implemented["skaf_descriptor_fwd"]
    assert refuses(x, weights, biases, None) == ""
    assert "7x7" in refuses(x, [torch.empty(8, 8, 9, 9)], biases[:1], None)
    assert "512" in refuses(x, [torch.empty(520, 8, 5, 5)], biases[:1], None)
    assert "32768" in refuses(torch.empty(1, 8, 1, 2**15), weights, biases, None)
