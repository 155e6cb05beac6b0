"""Every compiled operator once, forward and backward, on shapes of a few pixels: what compute-sanitizer looks at.

``compute-sanitizer --tool memcheck python -m benchmarks.sanitizer_target``; numbers are checked in tests/.
"""

from __future__ import annotations

import argparse
import importlib

import torch

from aminet_fast.ops import backends

from .cases import Case, Draw, all_cases, as_tuple, leaves
from .contenders import LAYOUTS, laid_out

SHAPES = ((1, 24, 5), (2, 48, 3))  # batch, channels, side: no multiple of a tile


def run(case: Case, backend: str, device: torch.device) -> None:
    function = case.ours()
    assert function is not None
    for n, channels, side in SHAPES:
        for dtype in (torch.float32, torch.bfloat16):
            for layout in LAYOUTS:
                arguments = laid_out(case.make(Draw(device), n, channels, side), dtype, layout)
                outputs = as_tuple(function(*arguments.values(), backend=backend))
                torch.autograd.grad(outputs, leaves(arguments), [torch.ones_like(o) for o in outputs])
    if device.type == "cuda":
        torch.cuda.synchronize()
    print(f"ran {case.name} on {backend}", flush=True)


def run_triton(device: torch.device, only: str | None) -> int:
    """The first of the harness's cases of every operator that Triton serves on the device; their number."""
    tried = importlib.import_module("tests.harness.triton.case")
    ops = importlib.import_module("aminet_fast.ops")
    ran = 0
    for operator in tried.operators():
        served = backends.explain(operator, device.type, "triton").backend == "triton"
        if not served or only not in (None, operator):
            continue
        for dtype in (torch.float32, torch.bfloat16):
            arguments = tried.first_case(operator).make(tried.Draw(dtype, device))
            outputs = tried.tensors([getattr(ops, operator)(**arguments, backend="triton")])
            of = [t for t in tried.tensors(arguments) if t.requires_grad]
            outputs = [o for o in outputs if o.requires_grad]
            torch.autograd.grad(outputs, of, [torch.ones_like(o) for o in outputs], allow_unused=True)
        torch.cuda.synchronize()
        print(f"ran {operator} on triton", flush=True)
        ran += 1
    return ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", help="an operator")
    options = parser.parse_args()
    device = torch.device(options.device)
    # Triton's have cases of their own, few enough to be compiled in the time that there is.
    ran = run_triton(device, options.only)
    for case in all_cases():
        if case.problem() or options.only not in (None, case.public_name):
            continue
        for backend in ("cpu", "cuda"):
            if backends.explain(case.public_name, device.type, backend).backend == backend:
                run(case, backend, device)
                ran += 1
    print(f"{ran} operators and backends ran" if ran else f"no operator has a {device.type} kernel in this version")


if __name__ == "__main__":
    main()
