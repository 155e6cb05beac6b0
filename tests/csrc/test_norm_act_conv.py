"""norm_act_conv's CUDA kernels on the emulator, beyond the cases of all kernels: how float32 is multiplied."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aminet_fast.ops import norm_act_conv as public
from tests.harness.cuda import build
from tests.tolerances import rounded_to_tf32

if reason := build.problem():
    pytest.skip(reason, allow_module_level=True)


pytestmark = pytest.mark.gpuless
assert public  # its schemas are defined by that
SLOPE = 0.2


@pytest.fixture(scope="module")
def emulated():
    torch.ops.load_library(build.library(build.ROOT / "csrc" / "cuda" / "norm_act_conv.cu"))
    return torch.ops.aminet_fast_emulated


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, scale, shift and weight."""
    torch.manual_seed(0)
    x = torch.randn(2, 24, 9, 11).contiguous(memory_format=torch.channels_last)
    return x, torch.rand(24) + 0.5, torch.randn(24), torch.randn(40, 24, 3, 3) / 216**0.5


def activation(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.leaky_relu(x * scale[:, None, None] + shift[:, None, None], SLOPE)


def largest(one: Tensor, other: Tensor) -> float:
    return (one.double() - other.double()).abs().max().item()


def test_forward_rounds_to_tf32_only_where_that_is_allowed(emulated) -> None:
    x, scale, shift, weight = drawn()
    given = (x, scale, shift, weight, SLOPE, 1, False, False, False, None)
    exactly, rounded = (emulated.norm_act_conv_fwd(*given, tf32=tf32)[0] for tf32 in (False, True))
    a = activation(x.double(), scale.double(), shift.double())
    wanted = F.conv2d(a, weight.double(), padding=1)
    in_tf32 = F.conv2d(
        rounded_to_tf32(activation(x, scale, shift)).double(), rounded_to_tf32(weight).double(), padding=1
    )
    eager = F.conv2d(activation(x, scale, shift), weight, padding=1)
    assert largest(exactly, wanted) <= 4 * largest(eager, wanted)  # three products are as exact as float32
    assert largest(rounded, in_tf32) <= 1e-5
    assert largest(rounded, wanted) >= 1e-4


def test_gradients_round_to_tf32_only_where_that_is_allowed(emulated) -> None:
    x, scale, shift, weight = drawn()
    dy = torch.randn(2, 40, 9, 11).contiguous(memory_format=torch.channels_last)
    given = (dy, None, None, x, scale, shift, weight, dy, scale, SLOPE, 1, False, False, True, True, None)
    exactly, rounded = (emulated.norm_act_conv_bwd(*given, tf32=tf32) for tf32 in (False, True))

    def gradients(dy: Tensor, w: Tensor, a: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Of x and of the weight."""
        dy, w, a = (t.to(dtype) for t in (dy, w, a))
        p = x.to(dtype) * scale.to(dtype)[:, None, None] + shift.to(dtype)[:, None, None]
        da = F.conv_transpose2d(dy, w, padding=1)
        dx = torch.where(p > 0, da, da * SLOPE) * scale.to(dtype)[:, None, None]
        return dx, torch.nn.grad.conv2d_weight(a, w.shape, dy, padding=1)

    a = activation(x, scale, shift)
    wanted = gradients(dy, weight, activation(x.double(), scale.double(), shift.double()), torch.float64)
    eager = gradients(dy, weight, a, torch.float32)
    in_tf32 = gradients(*(rounded_to_tf32(t) for t in (dy, weight, a)), torch.float64)
    for found, of_tf32, plain, of_rounded, right in zip(
        exactly[::3], rounded[::3], eager, in_tf32, wanted, strict=True
    ):
        assert largest(found, right) <= 4 * largest(plain, right)
        assert largest(of_tf32, of_rounded) <= 2e-5 * right.abs().max()
        assert largest(of_tf32, right) >= 1e-4


@pytest.mark.parametrize("reflect", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("outputs", [24, 40, 64])
def test_a_block_makes_several_tiles(emulated, outputs: int, stride: int, reflect: bool) -> None:
    """Its weights stay; the last block has fewer tiles. Moments are of y as it is rounded, to float32's last bits."""
    torch.manual_seed(1)
    side = (35 * stride, 40 * stride)
    x = torch.randn(2, 24, *side).bfloat16().contiguous(memory_format=torch.channels_last)
    scale, shift = torch.rand(24) + 0.5, torch.randn(24)
    weight = (torch.randn(outputs, 24, 3, 3) / 216**0.5).bfloat16()
    y, mean, var = emulated.norm_act_conv_fwd(
        x, scale, shift, weight, SLOPE, stride, reflect, False, True, None, tf32=False
    )
    a = activation(x.float(), scale, shift).bfloat16().double()
    padded = F.pad(a, (1, 1, 1, 1), "reflect" if reflect else "constant")
    wanted = F.conv2d(padded, weight.double(), stride=stride)
    assert largest(y, wanted) <= 2**-7 * wanted.abs().max()
    assert largest(mean, y.double().mean((0, 2, 3))) <= 1e-6
    assert largest(var, y.double().var((0, 2, 3), correction=0)) <= 1e-5
