"""Compiles on the machine itself what no pack has: the extension for this GPU, and Triton's kernels on all cores."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time

from aminet_fast.ops import _devices, confirmation
from aminet_fast.ops import extension as _extension

from .phases import PACK_USED, ROOT
from .run import Run, SkippedError

WARM_SECONDS = 60.0


def build(run: Run) -> None:
    if os.environ.get(PACK_USED) == "1":
        raise SkippedError("the pack has everything")
    if not run.need_cuda("compiling the extension and Triton's kernels"):
        return
    start = time.time()
    if shutil.which("nvcc"):
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        done = _within(command, run.left() - WARM_SECONDS, {"AMINET_FAST_BUILD": "cuda"})
        run.write("build", what="extension", status=done, seconds=time.time() - start)
        looked_for_again()
    else:
        run.skip("the compiled kernels", "there is no nvcc")
    start, seconds = time.time(), min(WARM_SECONDS, run.left()) - 5
    done = _within([sys.executable, "-m", "tests.harness.triton.warm", "--seconds", f"{seconds:.0f}"], seconds + 5, {})
    run.write("build", what="Triton's kernels", status=done, seconds=time.time() - start)


def looked_for_again() -> None:
    """What this process has found out of the extension, which was not there then."""
    importlib.invalidate_caches()
    for known in (_extension.load, _extension.build_facts, _devices._image_problem, confirmation.source):
        known.cache_clear()


def _within(command: list[str], seconds: float, env: dict[str, str]) -> str:
    """ "ok", or what went wrong."""
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, timeout=max(seconds, 1), check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    return "ok" if done.returncode == 0 else f"exit status {done.returncode}"
