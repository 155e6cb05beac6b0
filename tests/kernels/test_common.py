"""kernels/ stands on its own: it imports torch, Triton and itself, and its rule of layouts is the operators'."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

from aminet_fast.ops._library import empty_as, memory_format
from aminet_fast.ops.extension import kernels
from tests.harness import ROOT
from tests.harness.layouts import LAYOUTS, laid_out

FILES = sorted((ROOT / "kernels").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_kernel_file_imports_torch_triton_and_its_neighbours(path: Path) -> None:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add("." * node.level if node.level else str(node.module).split(".")[0])
    assert found <= {"torch", "triton", ".", *sys.stdlib_module_names}


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
