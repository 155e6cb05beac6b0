"""The copies of the CPU kernels for lesser processors run here too, each in a process that is told to use it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT
from tests.ops.copies import CHECKS
from tests.ops.skaf_gate_inputs import compiled_only


@compiled_only
@pytest.mark.parametrize("capability", ["portable", "avx2", "avx512"])
def test_every_copy_of_the_kernels(capability: str) -> None:
    """What new memory holds, here 3e38 in float32, must not be used."""
    environ = os.environ | {"AMINET_FAST_CPU_CAPABILITY": capability, "MALLOC_PERTURB_": "128"}
    command = [sys.executable, "-m", "tests.ops.copies"]
    result = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    runs, *right = result.stdout.split()
    assert result.returncode == 0, f"{runs}: right are {right}, then\n{result.stderr[-3000:]}"
    if runs != capability:
        pytest.skip(f"this processor cannot run {capability}")
    assert right == [check.__name__ for check in CHECKS]
