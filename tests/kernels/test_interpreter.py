"""Numbers of the Triton kernels, by Triton's interpreter, against the float64 reference: forward and every gradient.

Each operator's cases run in one process, watched for races and for accesses out of bounds; see tests/harness/triton/.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT
from tests.harness.triton.case import operators

pytest.importorskip("triton", reason="Triton is not installed")


def interpret(operator: str, *options: str) -> None:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    result = subprocess.run(
        [sys.executable, "-m", "tests.harness.triton.interpreted", operator, *options],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(result.stdout)
    assert result.returncode == 0, result.stdout[-4000:]


# Their smallest case takes some seconds; the others' is for make test-gpu-less.
LIGHT = ("batch_norm_affine", "channel_moments", "layer_norm2d", "skaf_gate")


@pytest.mark.parametrize(
    "operator", [pytest.param(name, marks=[] if name in LIGHT else pytest.mark.gpuless) for name in operators()]
)
def test_first_case(operator: str) -> None:
    interpret(operator, "--fast")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("operator", operators())
def test_all_cases(operator: str) -> None:
    interpret(operator)
