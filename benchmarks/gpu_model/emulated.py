"""``python -m benchmarks.gpu_model.emulated LIBRARY CALLS TOLD``: runs calls of compiled functions on the emulator.

CALLS has a line of JSON for each, [name, arguments]; TOLD gets one for each as it comes: {"launches": ...} as
counters.cpp describes them, or {"error": ...}.
"""

from __future__ import annotations

import argparse
import importlib.machinery
import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aminet_fast import ops

PATTERN = 65536  # random numbers, repeated

assert ops.__all__  # they are defined now


def tensors(value: Any, below: int) -> Any:
    """Arguments with a tensor for each description: random values; whole numbers are less than `below`."""
    if isinstance(value, dict) and "stride" in value:
        made = torch.empty_strided(value["shape"], value["stride"], dtype=getattr(torch, value["dtype"]))
        fill(made, below)
        return made
    return [tensors(member, below) for member in value] if isinstance(value, list) else value


def fill(t: Tensor, below: int) -> None:
    flat = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage())
    if t.is_floating_point():
        pattern = torch.randn(PATTERN).to(t.dtype)
    else:
        pattern = torch.randint(0, below, (PATTERN,)).to(t.dtype)
    for start in range(0, flat.numel(), PATTERN):
        part = flat[start : start + PATTERN]
        part.copy_(pattern[: part.numel()])


def outputs(value: Any) -> int:
    """Of all weights [O, I, k, k] together: what an argmax over their channels is less than."""
    if isinstance(value, dict) and "stride" in value:
        shape = value["shape"]
        return shape[0] if len(shape) == 4 and shape[2] == shape[3] < 8 else 0
    return sum(map(outputs, value)) if isinstance(value, list) else 0


def counters_of(library: Path) -> Any:
    """The library's Python module; its operators are registered by that."""
    loader = importlib.machinery.ExtensionFileLoader("counters", str(library))
    spec = importlib.util.spec_from_file_location("counters", library, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def launches(counters: Any, name: str, arguments: Any) -> dict[str, Any]:
    try:
        getattr(torch.ops.aminet_fast_emulated, name)(*tensors(arguments, max(1, outputs(arguments))))
    except Exception as error:
        counters.take()
        return {"error": f"{type(error).__name__}: {str(error)[:300]}"}
    return {"launches": counters.take()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("library", type=Path)
    parser.add_argument("calls", type=Path)
    parser.add_argument("told", type=Path)
    parser.add_argument("--sample", type=int, default=1, help="blocks of a launch that are counted")
    parser.add_argument("--whole", nargs="*", default=[], help="kernels of which all blocks run")
    options = parser.parse_args()
    torch.manual_seed(0)
    counters = counters_of(options.library)
    counters.sample(options.sample, options.whole)
    with options.told.open("a") as told:
        for line in options.calls.read_text().splitlines():
            print(json.dumps(launches(counters, *json.loads(line))), file=told, flush=True)


if __name__ == "__main__":
    main()
