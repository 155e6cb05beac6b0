"""The emulator that csrc/cuda is proven with: planted faults are seen, and tensor cores and copies have right twins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.harness import ROOT
from tests.harness.cuda import build, faulty
from tests.tolerances import rounded_to_tf32

if reason := build.problem():
    pytest.skip(reason, allow_module_level=True)

emulated = torch.ops.aminet_fast_emulated
# The first that sees a fault, in the order of what they cost: the numbers or the emulator's own checks, in every order
# of threads; AddressSanitizer; ThreadSanitizer.
SEEN_BY = {
    "missing barrier": ("", "wrong numbers"),
    "index in global memory": ("address", "AddressSanitizer: heap-buffer-overflow"),
    "index in shared memory": ("address", "AddressSanitizer: use-after-poison"),
    "skipped tail": ("", "wrong numbers"),
    "divergent barrier": ("", "emulator: divergent __syncthreads"),
    "shared memory reused without a barrier": ("thread", "ThreadSanitizer: data race"),
    "accumulated by blocks without atomics": ("thread", "ThreadSanitizer: data race"),
    "misaligned vector": ("", "runtime error: reference binding to misaligned address"),
    "missing __syncwarp": ("", "wrong numbers"),
    "missing wait for a copy": ("", "wrong numbers"),
    "copied over what is still read": ("", "wrong numbers"),
    "missing __threadfence": ("thread", "ThreadSanitizer: data race"),
    "a shuffle for a fence": ("thread", "ThreadSanitizer: data race"),
}


def outcomes(sanitizer: str) -> dict[str, dict[str, str]]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-m", "tests.harness.cuda.faulty", "--sanitizer", sanitizer],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    "sanitizer", ["", pytest.param("address", marks=pytest.mark.slow), pytest.param("thread", marks=pytest.mark.slow)]
)
def test_planted_faults(sanitizer: str) -> None:
    """What is right passes under every order, with every sanitizer; each fault is seen by what the table says."""
    found = outcomes(sanitizer)
    right = {name: seen for name, seen in found.items() if name.startswith("none")}
    assert right
    assert all(set(seen.values()) == {"right"} for seen in right.values()), right
    assert set(SEEN_BY) == set(faulty.FAULTS) == set(found) - set(right)
    for name, (by, words) in SEEN_BY.items():
        if by == sanitizer:
            assert all(seen.startswith(words) for seen in found[name].values()), (name, found[name])
        elif not by:
            assert "right" not in found[name].values(), (name, found[name])


@cache
def twins() -> None:
    torch.ops.load_library(build.library(build.HERE / "twins.cu"))


@pytest.mark.parametrize(
    ("dtype", "way"),
    [(torch.float32, way) for way in range(2)]
    + [(dtype, way) for dtype in (torch.bfloat16, torch.float16) for way in range(4)],
)
def test_products(dtype: torch.dtype, way: int) -> None:
    """Way 0 loads the fragments from memory, the others by load_matrices, transposed or not."""
    a, b = drawn_factors(dtype)
    one, other = (rounded_to_tf32(x) if dtype == torch.float32 else x for x in (a, b))
    torch.testing.assert_close(product(a, b, way), one.double() @ other.double(), rtol=1e-6, atol=1e-6)


def drawn_factors(dtype: torch.dtype) -> list[Tensor]:
    k = 8 if dtype == torch.float32 else 16
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator).to(dtype) for shape in ((16, k), (k, 8))]


def product(a: Tensor, b: Tensor, way: int) -> Tensor:
    """What the twins add to a matrix of ones."""
    twins()
    d = torch.ones(16, 8)
    emulated.twin_product(a, b, d, way)
    return d.double() - 1


def test_a_factor_that_nobody_rounded_is_cut_off() -> None:
    """The planted fault of way 2, whose numbers are those of tensor cores, and no other's."""
    a, b = drawn_factors(torch.float32)
    cut = [(x.view(torch.int32) & ~0x1FFF).view(torch.float32).double() for x in (a, b)]
    found = product(a, b, 2)
    torch.testing.assert_close(found, cut[0] @ cut[1], rtol=1e-6, atol=1e-6)
    assert (found - product(a, b, 1)).abs().max() > 1e-3


def test_tf32_is_rounded_to_nearest_with_ties_away_from_zero() -> None:
    """What tensor cores keep of it; a NaN stays one, also where all that makes it one is in the bits that are lost."""
    twins()
    unit, inf, below_two = 2.0**-10, float("inf"), 2 - 2.0**-23
    given = [1 + unit / 2, -1 - unit / 2, 1 + 3 * unit / 2, 1 + unit / 4, below_two, 3.4028234e38, -inf, 0]
    wanted = [1 + unit, -1 - unit, 1 + 2 * unit, 1, 2, inf, -inf, 0]
    nans = torch.tensor([0x7F800001, 0x7FC00000, -1], dtype=torch.int32).view(torch.float32)
    x = torch.cat([torch.tensor(given), nans])
    y = torch.empty_like(x)
    emulated.twin_tf32(x, y)
    assert torch.equal(y[:-3], torch.tensor(wanted))
    kept = (y.view(torch.int32) & ~0x1FFF).view(torch.float32)
    assert torch.equal(kept[:-3], y[:-3])
    assert kept[-3:].isnan().all()


@pytest.mark.parametrize("transposed", [False, True])
def test_one_matrix(transposed: bool) -> None:
    twins()
    x, out = torch.arange(64.0).half().view(8, 8), torch.zeros(32, 2).half()
    emulated.twin_matrix(x, out, transposed)
    assert torch.equal(out.view(8, 8), x.T if transposed else x)


@pytest.mark.parametrize("size", [4, 8, 16])
@pytest.mark.parametrize("lanes", [0, 5, 32])
def test_copies(size: int, lanes: int) -> None:
    """Zeros where a copy is not inside, from an address that nobody reads; poison until they are waited for."""
    twins()
    x = torch.arange(32 * size, dtype=torch.uint8)
    y = torch.full((64 * size,), 77, dtype=torch.uint8)
    emulated.twin_copy(x, y, size, lanes * size)
    expected = torch.where(torch.arange(32 * size) < lanes * size, x, torch.zeros_like(x))
    assert torch.equal(y[: 32 * size], expected)
    assert (y[32 * size :] == 255).all()


@pytest.mark.parametrize(
    ("bytes_", "threads", "blocks", "limit", "words"),
    [
        (227 * 1024, 1024, 2, "", "right"),
        (227 * 1024 + 1, 32, 1, "", "emulator: dynamic shared memory over the limit"),
        (99 * 1024 + 1, 32, 1, str(99 * 1024), "emulator: dynamic shared memory over the limit"),
        (0, 1025, 1, "", "emulator: invalid block size"),
        (0, 0, 1, "", "emulator: invalid block size"),
        (0, 32, 65536, "", "emulator: invalid grid size"),
        (0, 32, 0, "", "emulator: invalid grid size"),
    ],
)
def test_limits(
    bytes_: int, threads: int, blocks: int, limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    twins()
    if limit:
        monkeypatch.setenv("CUDA_EMU_SMEM_LIMIT", limit)

    def launch() -> bool:
        emulated.twin_launch(torch.zeros(1), bytes_, threads, blocks)
        return True

    assert faulty.outcome(launch) == words
