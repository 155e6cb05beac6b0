"""Peak memory of a training step on the CPU, of a fresh process, as JSON.

``python -m benchmarks.memory_process eager channels_last --batch 4``; benchmarks/memory.py starts it.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from .contenders import LAYOUTS
from .model import autocast, build, make_step


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
