"""``python -m benchmarks.backends``: Triton's kernels and the compiled ones of an operator, beside plain PyTorch.

What aminet_fast/dispatch.json is filled from. A line a size: relative error of the worst output or gradient against
float64, then medians of the forward and of forward and backward together, in microseconds, each a CUDA graph with the
L2 cache emptied before, where it can be captured. Numbers that are wrong are not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from aminet_fast import backends

from . import parity, timing
from .cases import BOTH, FORWARD, SIZES, Case, Group, all_cases, as_tuple, leaves
from .contenders import OperatorGroup, laid_out, pass_of
from .rows import describe_machine

BACKENDS = ("reference", "triton", "cuda")
ROUNDS = 9


def with_two() -> list[Case]:
    """Cases of the operators that have both."""
    found = []
    for case in all_cases():
        names = {backends.explain(case.public_name, "cuda", name).backend for name in ("triton", "cuda")}
        found += [case] if {"triton", "cuda"} <= names else []
    return found


def measure(work: OperatorGroup, case: Case, backend: str) -> dict[str, Any]:
    """{"error": ..., "forward": us, "both": us, "graphs": how many of the two were captured}, or an error alone."""
    os.environ[backends.VARIABLE] = backend
    plain = backend == "reference"
    function: Callable[..., Any] = case.reference() if plain else case.ours()  # type: ignore[assignment]
    arguments = laid_out(work.drawn, work.dtype, "channels_last")
    inputs = leaves(arguments)

    def forward() -> tuple[torch.Tensor, ...]:
        return as_tuple(function(*arguments.values()))

    outputs = forward()
    gradients = [torch.empty_like(o).copy_(g) for o, g in zip(outputs, work.grads, strict=True)]
    error = parity.worst([*outputs, *torch.autograd.grad(outputs, inputs, gradients)], work.wanted)
    if not error <= parity.most("cuda", work.group.dtype, plain):
        return {"error": error}
    times, graphs = {}, 0
    for name, what in (("forward", FORWARD), ("both", BOTH)):
        run = pass_of(what, forward, inputs, gradients)
        with suppress(RuntimeError):
            run, graphs = timing.graphed(run), graphs + 1
        sample = timing.on_device(run)
        times[name] = 1e6 * statistics.median(sample() for _ in range(ROUNDS))
    return {"error": error, **times, "graphs": graphs}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backends", description=__doc__.split("\n\n")[0])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", help="operators, with commas between")
    parser.add_argument("--out", type=Path, help="a JSON file of the lines")
    options = parser.parse_args()
    device, lines = torch.device("cuda"), []
    for case in with_two():
        if options.only and case.public_name not in options.only.split(","):
            continue
        for channels, side in SIZES:
            group = Group(case.name, BOTH, options.dtype, channels, side, options.batch)
            line: dict[str, Any] = {"case": case.name, "size": group.size, "dtype": options.dtype}
            try:
                work = OperatorGroup(case, group, device)
                line |= {backend: measure(work, case, backend) for backend in BACKENDS}
            except Exception as error:  # the other sizes are still of use
                line["problem"] = f"{type(error).__name__}: {str(error)[:200]}"
            lines.append(line)
            print(json.dumps(line), flush=True)
            if options.out:
                kept = {"machine": describe_machine(device), "lines": lines}
                options.out.write_text(json.dumps(kept, indent=1) + "\n")
    return int(any("problem" in line for line in lines))


if __name__ == "__main__":
    raise SystemExit(main())
