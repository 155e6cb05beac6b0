"""skaf_descriptor's CUDA kernels on the emulator, beyond the cases of all kernels: packed weights, ties, NaN."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from cuda_harness import build
from torch import Tensor
from torch.nn.functional import pad

from aminet_fast.ops import _library

if shutil.which(os.environ.get("CXX", "g++")) is None:
    pytest.skip("there is no C++ compiler", allow_module_level=True)
try:
    build.cuda_headers()
except FileNotFoundError as error:
    pytest.skip(str(error), allow_module_level=True)


@pytest.fixture(scope="module")
def forward():
    torch.ops.load_library(build.library(build.ROOT / "csrc" / "cuda" / "skaf_descriptor.cu"))
    return torch.ops.aminet_fast_emulated.skaf_descriptor_fwd


def drawn(c: int, dtype: torch.dtype) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    torch.manual_seed(0)
    weights = [torch.randn(c, c, k, k) / (c * k * k) ** 0.5 for k in (5, 7)]
    return torch.randn(1, c, 9, 20).to(dtype), weights, [torch.randn(c) for _ in weights]


def test_packed_weights_are_those_that_it_would_make(forward) -> None:
    x, weights, biases = drawn(16, torch.bfloat16)
    rows = torch.cat([pad(weights[0], (1, 1, 1, 1)), weights[1]])
    packed = rows.permute(0, 2, 3, 1).to(torch.bfloat16).flatten()  # as kernels/skaf_descriptor.py lays them out
    m, argmax = forward(x, weights, biases, None)
    for one, other in zip(forward(x, weights, biases, packed), (m, argmax), strict=True):
        assert torch.equal(one, other)
    doubled = [2 * w for w in weights]
    assert torch.equal(forward(x, weights, biases, 2 * packed)[0], forward(x, doubled, biases, None)[0])
    x = x.half()  # for which packed weights are not
    assert torch.equal(forward(x, weights, biases, 2 * packed)[0], forward(x, weights, biases, None)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_first_of_equals_is_the_maximum(forward, dtype: torch.dtype) -> None:
    x, weights, _ = drawn(30, dtype)
    bias = torch.zeros(30)
    bias[[7, 25]] = 1.0
    m, argmax = forward(torch.zeros_like(x), weights, [bias, bias], None)
    assert argmax.unique().tolist() == [7]
    torch.testing.assert_close(m[:, 1], torch.ones_like(m[:, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_is_the_maximum_where_it_is_in_reach(forward, dtype: torch.dtype) -> None:
    x, weights, biases = drawn(8, dtype)
    x[0, 3, 4, 10] = float("nan")
    m, argmax = forward(x, weights, biases, None)
    rows, columns = torch.arange(9)[:, None], torch.arange(20)[None]
    far = torch.maximum((rows - 4).abs(), (columns - 10).abs())
    assert torch.equal(m[0, 1].isnan(), far <= 3)
    assert torch.equal(argmax[0] == 0, (far <= 2) | (argmax[0] == 0) & (far > 3))
    assert (argmax[0][far == 3] == 8).all()  # the first channel of the larger convolution


def test_refuses_what_it_does_not_take() -> None:
    x, weights, biases = drawn(8, torch.bfloat16)
    refuses = _library._implemented["skaf_descriptor_fwd"]
    assert refuses(x, weights, biases, None) == ""
    assert "7x7" in refuses(x, [torch.empty(8, 8, 9, 9)], biases[:1], None)
    assert "512" in refuses(x, [torch.empty(520, 8, 5, 5)], biases[:1], None)
    assert "32768" in refuses(torch.empty(1, 8, 1, 2**15), weights, biases, None)
