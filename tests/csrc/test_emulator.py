"""Numbers of the CUDA kernels, on the emulator, against the float64 reference: forward and every gradient.

Each operator's cases run in one process; see tests/harness/cuda/. test_harness.py shows what the emulator sees.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT
from tests.harness.cuda import build

OPERATORS = [source.stem for source in build.sources()]
if reason := build.problem():
    pytest.skip(reason, allow_module_level=True)


def emulate(operator: str, *options: str, **environ: str) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    environ["CUDA_EMU_SMEM_LIMIT"] = str(99 * 1024)  # what sm_86 and sm_89 have, the least of all
    result = subprocess.run(
        [sys.executable, "-m", "tests.harness.cuda.emulated", operator, *options],
        env=os.environ | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-4000:]


@pytest.mark.gpuless
@pytest.mark.parametrize("operator", OPERATORS)
def test_first_case(operator: str) -> None:
    emulate(operator, "--fast")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operator", OPERATORS)
def test_all_cases(operator: str) -> None:
    """With threads and blocks in random order."""
    emulate(operator, CUDA_EMU_ORDER="rand")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_sanitizers(operator: str, sanitizer: str) -> None:
    emulate(operator, "--fast", "--sanitizer", sanitizer)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("case", ["tiles-c48-16-bit", "tiles-c24-c64"])
def test_sanitizers_where_a_block_makes_several_tiles(case: str, sanitizer: str) -> None:
    emulate("norm_act_conv", "--case", case, "--dtype", "bfloat16", "--sanitizer", sanitizer)
