"""Peak memory of a training step above its resting level (weights, optimizer state).

On CUDA the allocator keeps count. On the CPU it is the peak of resident memory of a fresh process: memory_process.py.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 600
# Every tensor of a page or more gets its own mapping, returned when it is freed: resident memory is then live memory.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_MMAP_MAX_": "1000000", "MALLOC_TRIM_THRESHOLD_": "65536"}


def on_cuda(model: nn.Module, step: Callable[[], None]) -> dict[str, Any]:
    """Of a step that has run before; gradients do not count as resting."""
    model.zero_grad()
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    rest = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return {"peak_bytes": torch.cuda.max_memory_allocated() - rest, "rest_bytes": rest}


def in_child(kind: str, layout: str, batch: int, side: int, dtype: str) -> dict[str, Any]:
    """The same for a CPU, and the bytes that autograd keeps from forward to backward. Raises RuntimeError."""
    arguments = [kind, layout, "--batch", str(batch), "--side", str(side), "--dtype", dtype]
    arguments += ["--threads", str(torch.get_num_threads())]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory_process", *arguments],
        cwd=ROOT,
        env={**os.environ, **MALLOC, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks.memory_process {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
