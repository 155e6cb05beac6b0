"""That the harness of the Triton kernels sees what it is there to see: planted mistakes, each found by its check."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

pytest.importorskip("triton", reason="Triton is not installed")

PLANTED = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import sys
import torch, triton
import triton.language as tl
from tests.harness.triton.interpreter import correct_bfloat16, correct_scalars
from tests.harness.triton.redzones import watched

@triton.jit
def copy(x_ptr, y_ptr, n, BLOCK: tl.constexpr, MISTAKE: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MISTAKE == "none":
        tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0), mask=at < n)
    if MISTAKE == "load":
        tl.store(y_ptr + at, tl.load(x_ptr + at), mask=at < n)
    if MISTAKE == "store":
        tl.store(y_ptr + at, tl.load(x_ptr + at, mask=at < n, other=0.0), mask=at <= n)
    if MISTAKE == "two stores":
        tl.store(y_ptr + tl.arange(0, BLOCK), tl.load(x_ptr + at, mask=at < n, other=0.0))
    if MISTAKE == "in place":
        tl.store(x_ptr + at, tl.load(x_ptr + (n - 1 - at), mask=at < n, other=0.0), mask=at < n)
    if MISTAKE == "masked":
        tl.store(y_ptr + at % n, tl.load(x_ptr + at % n, mask=at % n < n - 1), mask=at < n)

@triton.jit
def halves(x_ptr, w_ptr, y_ptr):
    at = tl.arange(0, 16)
    x = tl.load(x_ptr + at[:, None] * 16 + at[None, :])
    w = tl.load(w_ptr + at[:, None] * 16 + at[None, :])
    y = tl.where(x > w, x * w + x, w - x)
    tl.store(y_ptr + at[:, None] * 16 + at[None, :], y)
    tl.store(y_ptr + 256 + at[:, None] * 16 + at[None, :], tl.dot(x, w).to(tl.bfloat16))

correct_bfloat16()
correct_scalars()
if sys.argv[1] == "bfloat16":
    x, w = torch.randn(16, 16).bfloat16(), torch.randn(16, 16).bfloat16()
    y = torch.empty(2, 16, 16, dtype=torch.bfloat16)
    halves[(1,)](x, w, y)
    assert torch.equal(y[0], torch.where(x > w, x * w + x, w - x))
    torch.testing.assert_close(y[1], (x.float() @ w.float()).bfloat16())
else:
    x, y = torch.arange(100.0), torch.zeros(100)
    with watched():
        copy[(4,)](x, y, 100, 32, sys.argv[1])
    assert torch.equal(x, y), "WrongNumbers"
"""

GREEDY = """
import triton
import triton.language as tl

@triton.jit
def greedy(x_ptr):
    at = tl.arange(0, 8192)
    x = tl.load(x_ptr + at)
    total = tl.sum(x, 0)
    tl.store(x_ptr + at, x * total)
    tl.store(x_ptr + at, x - tl.max(x * total, 0))
"""


SHIFTED = """
import triton
import triton.language as tl

@triton.jit
def shifted(x_ptr, y_ptr, n, APART: tl.constexpr):
    at = tl.arange(0, 128)
    before = tl.zeros([128], tl.float32)
    here = tl.zeros([128], tl.float32) if APART else before
    total = tl.zeros([128], tl.float32)
    for row in range(n):
        x = tl.load(x_ptr + row * 128 + at)
        total += x * before
        before = here
        here = x
    tl.store(y_ptr + at, total)
"""


@pytest.mark.gpuless
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("none", ""),
        ("bfloat16", ""),
        ("load", "OutOfBoundsError"),
        ("store", "OutOfBoundsError"),
        ("two stores", "RaceError"),
        ("in place", "RaceError"),
        ("masked", "WrongNumbers"),
    ],
)
def test_planted_mistakes(mistake: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(PLANTED)
    result = subprocess.run(
        [sys.executable, str(tmp_path / "planted.py"), mistake],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode == 0) == (not message), result.stderr
    assert message in result.stderr


def test_spills_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that holds more numbers than there are registers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tests.harness.triton.launches import compiled_launches

    (tmp_path / "greedy_kernel.py").write_text(GREEDY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import greedy_kernel  # type: ignore[import-not-found]

    with compiled_launches(80) as launches, FakeTensorMode():
        greedy_kernel.greedy[(1,)](torch.empty(8192, device="cuda"), num_warps=1)
    (launch,) = launches
    assert launch.used.spilled > 0
    assert any("spills" in problem for problem in launch.problems({}))


@pytest.mark.parametrize("apart", [True, False])
def test_a_carried_variable_that_was_taken_for_constant_is_seen(
    apart: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two that begin as one value Triton loses the shifted one, on a GPU and when it compiles; not interpreted."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tests.harness.triton.launches import compiled_launches

    (tmp_path / "shifted_kernel.py").write_text(SHIFTED)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shifted_kernel", raising=False)
    import shifted_kernel  # type: ignore[import-not-found]

    with compiled_launches(90) as launches, FakeTensorMode():
        x, y = torch.empty(16, 128, device="cuda"), torch.empty(128, device="cuda")
        shifted_kernel.shifted[(1,)](x, y, 16, APART=apart)
    (launch,) = launches
    assert bool(launch.idle) != apart
    assert bool(launch.problems({})) != apart


def test_channel_attention_keeps_all_taps() -> None:
    """Three of nine had no gradient by that mistake; an H200 showed it."""
    import torch

    from tests.harness.triton.case import cases_of
    from tests.harness.triton.checks import check_compiles

    case = next(case for case in cases_of("channel_attention") if case.network)
    sums = [launch for launch in check_compiles(case, torch.bfloat16, 90) if launch.kernel == "outer_kernel"]
    assert len(sums) == 2
    assert not any(launch.idle for launch in sums)


def test_a_tree_without_an_install_finds_its_kernels(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    ignored = shutil.ignore_patterns("kernels", "*.so", "__pycache__")
    shutil.copytree(ROOT / "aminet_fast", tmp_path / "aminet_fast", ignore=ignored)
    code = "from aminet_fast.ops.extension import kernels; print(kernels('layer_norm2d').__file__)"
    result = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {[p for p in sys.path if 'packages' in p]}; {code}"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == str(tmp_path / "kernels" / "layer_norm2d.py")
