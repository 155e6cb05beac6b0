"""Every operator's kernels once, forward and backward, on shapes of a few pixels: what compute-sanitizer looks at.

``compute-sanitizer --tool memcheck python -m benchmarks.sanitizer_target``; numbers are checked in tests/. It imports
what the gate does and no more: the machine may have nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

import torch

from aminet_fast import backends, ops

from .rows import ROOT

PIXELS = 1024  # of an image at most


def harness() -> Any:
    """tests/triton/case.py: arguments of every operator."""
    if str(ROOT / "tests") not in sys.path:
        sys.path.insert(0, str(ROOT / "tests"))
    return importlib.import_module("triton_harness.case")


def cases(operator: str, backend: str) -> list[Any]:
    """A small one; of compiled kernels, which vary with channels and width, also the network's of few pixels.

    Triton's have to be compiled in the time that there is.
    """
    tried = harness()

    def small(case: Any) -> bool:
        images = filter(tried.is_image, tried.tensors(case.make(tried.Draw(torch.float32, batch=1))))
        return all(image.shape[2] * image.shape[3] <= PIXELS for image in images)

    network = [case for case in tried.cases_of(operator) if case.network] if backend != "triton" else []
    return [tried.first_case(operator), *filter(small, network)]


def run(operator: str, backend: str, device: torch.device) -> None:
    tried = harness()
    for case in cases(operator, backend):
        for dtype in (torch.float32, torch.bfloat16):
            if dtype not in case.dtypes:
                continue
            arguments = case.make(tried.Draw(dtype, device, batch=1))
            outputs = tried.tensors([getattr(ops, operator)(**arguments, backend=backend)])
            outputs = [o for o in outputs if o.requires_grad]
            of = [t for t in tried.tensors(arguments) if t.requires_grad]
            torch.autograd.grad(outputs, of, [torch.ones_like(o) for o in outputs], allow_unused=True)
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"ran {operator} on {backend}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", help="an operator")
    options = parser.parse_args()
    device, ran = torch.device(options.device), 0
    for backend in ("triton", "cpu", "cuda"):
        for operator in harness().operators():
            served = backends.explain(operator, device.type, backend).backend == backend
            if served and options.only in (None, operator):
                run(operator, backend, device)
                ran += 1
    print(f"{ran} operators and backends ran" if ran else f"no operator has a {device.type} kernel in this version")


if __name__ == "__main__":
    main()
