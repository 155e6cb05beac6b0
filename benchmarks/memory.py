"""Peak memory of a training step above its resting level (weights, optimizer state).

On CUDA the allocator keeps count. On the CPU it is the peak of resident memory of a fresh process, which prints it as
JSON: ``python -m benchmarks.memory eager channels_last --batch 4``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
        [sys.executable, "-m", "benchmarks.memory", *arguments],
        cwd=ROOT,
        env={**os.environ, **MALLOC, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"benchmarks.memory {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def status(field: str) -> int:
    """Bytes of VmRSS (now) or VmHWM (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}; peak memory of a CPU step needs Linux")


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Of the tensors that autograd keeps, each storage once, without weights and statistics."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return t.detach()  # a result that keeps itself would never be freed

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        graph = forward()  # held, so that no address is used twice
    total = sum(kept.values())
    del graph
    return total


def main() -> None:
    from .contenders import LAYOUTS
    from .model import autocast, build, make_step

    parser = argparse.ArgumentParser(description="Peak memory of one training step on the CPU, as JSON.")
    parser.add_argument("kind", choices=("eager", "ours"))
    parser.add_argument("layout", choices=LAYOUTS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cpu")
    model = build(options.kind, options.layout, device)
    shape = (options.batch, 3, options.side, options.side)
    x, target = (torch.rand(shape).contiguous(memory_format=LAYOUTS[options.layout]) for _ in range(2))

    def forward() -> Tensor:
        with autocast(device, options.dtype):
            return model(x)

    saved = saved_bytes(model, forward)
    step = make_step(model, model, x, target, options.dtype)
    step()  # optimizer state, and what libraries keep
    model.zero_grad()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    rest = status("VmRSS")
    step()
    print(json.dumps({"peak_bytes": status("VmHWM") - rest, "rest_bytes": rest, "saved_bytes": saved}))


if __name__ == "__main__":
    main()
