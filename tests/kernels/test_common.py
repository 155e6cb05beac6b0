"""kernels/ imports nothing of ours (tests/test_layering.py), so that it has the operators' rule of layouts again."""

from __future__ import annotations

import pytest
import torch

from aminet_fast.ops._library import empty_as, memory_format
from aminet_fast.ops.extension import kernels
from tests.harness.layouts import LAYOUTS, laid_out


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (1, 3, 1, 1), (2, 1, 1, 1)], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_kernels_rule_of_layouts_is_the_operators(layout: str, shape: tuple[int, int, int, int]) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    common = kernels("_common")
    t = laid_out(torch.zeros(shape), layout)
    assert common.memory_format(t) == memory_format(t)
    ours, theirs = common.empty_as(t), empty_as(t)
    assert (ours.shape, ours.stride(), ours.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)


def test_a_tensor_of_neighbouring_channels_is_answered_in_channels_last() -> None:
    t = torch.zeros(2, 3, 4, 5)
    assert memory_format(t) == torch.contiguous_format
    assert empty_as(t).stride() == (60, 20, 5, 1)
    last = laid_out(t, "channels_last_sliced")
    assert memory_format(last) == torch.channels_last
    assert empty_as(last).stride() == (60, 1, 15, 3)
