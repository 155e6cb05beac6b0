"""The CUDA kernels compile with nvcc, spill no registers, and make a module that imports; no GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT
from tests.harness.cuda import build, nvcc, resources

if reason := nvcc.problem():
    pytest.skip(reason, allow_module_level=True)

pytestmark = pytest.mark.gpuless
SOURCES = {source.stem: source for source in build.sources()}
LOAD = """
import importlib.util, sys, torch
import aminet_fast.ops
from aminet_fast.ops import _library
spec = importlib.util.spec_from_file_location("aminet_fast._compiled._C_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert str(module.runtime_version() // 1000) == torch.version.cuda.split(".")[0]
for name in _library._implemented:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aminet_fast_cuda::{name}", "CUDA"), name
for operator in sys.argv[2:]:
    assert any(name.startswith(f"{operator}_") for name in _library._implemented), operator
"""


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("generation", nvcc.GENERATIONS, ids=lambda of: "sm_" + "-".join(map(str, of)))
@pytest.mark.parametrize("operator", SOURCES)
def test_compiles_without_spills(operator: str, generation: tuple[int, ...]) -> None:
    made = nvcc.compiled(SOURCES[operator], generation[0], also=generation[1:])
    for architecture in generation:
        kernels = resources.used(made, architecture)
        assert made.threads
        assert kernels.keys() >= made.threads.keys()
        assert not any(used.spilled for used in kernels.values())


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("operator", SOURCES)
def test_a_generation_has_one_ptx(operator: str) -> None:
    """But for names of the target and of the run."""
    for first, *others in nvcc.GENERATIONS:
        texts = [nvcc.ptx(SOURCES[operator], architecture) for architecture in (first, *others) if others]
        assert all(text == texts[0] for text in texts)


@pytest.mark.timeout(1800)
def test_module_imports_without_a_driver(tmp_path: Path) -> None:
    """In a process of its own, beside the CPU's tensors; its operators are registered for CUDA tensors."""
    objects = [nvcc.compiled(path, 90).path for path in [*SOURCES.values(), build.ROOT / "csrc" / "cuda" / "module.cu"]]
    module = tmp_path / "_C_cuda.abi3.so"
    nvcc.linked(objects, module)
    subprocess.run(
        [sys.executable, "-c", LOAD, str(module), *SOURCES],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        check=True,
    )


# A hundred values live across a barrier, where 64 registers are to be had.
SPILLING = """
__global__ void __launch_bounds__(1024) spilling(float* x) {
  float kept[100];
#pragma unroll
  for (int i = 0; i < 100; ++i) kept[i] = x[i * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 100; ++i) x[i * 1024 + threadIdx.x] = kept[99 - i];
}
"""


def test_spills_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what the report says of such a kernel, for each architecture."""
    monkeypatch.setenv("AMINET_NVCC_CACHE", str(tmp_path))
    source = tmp_path / "spilling.cu"
    source.write_text(SPILLING)
    with pytest.raises(nvcc.CompileError, match="Registers are spilled to local memory in function '_Z8spillingPf'"):
        nvcc.compiled(source, 80)
    made = nvcc.compiled(source, 80, also=(89,), spills=True)
    found = resources.used(made, 80)
    assert resources.used(made, 89) == found
    (used,) = found.values()
    assert (used.registers, used.threads, used.spilled > 0) == (64, 1024, True)
    row = resources.table({80: found})[-1]
    assert row.startswith("| `spilling` | 1024 |  | 64 · 1, **")
    assert row.endswith(" spilled** |")


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (
            "void aminet::(anonymous namespace)::front<__nv_bfloat16, 24, (aminet::Way)1>(float*, int)",
            "front<bf16, 24, (Way)1>",
        ),
        ("aminet::join(void (*)(int))", "join"),
    ],
)
def test_names_are_shortened(name: str, short: str) -> None:
    assert resources._short(name) == short
