"""``python -m benchmarks.gpu_model``: estimates a training step or an inference call on an H200, without a GPU.

Prints launches, casts of images, estimated and least times by operator, and the longest kernels (docs/gpu_model.md).
What is compiled for that is kept in build/gpu-model.

An action is a function of the options that returns the exit status; `main` picks it. Each has its option here and its
work in a file of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import FOLDER, ROOT

BATCHES = {"train": 32, "infer": 1}


def estimate(options: argparse.Namespace) -> int:
    """Prints what one call takes."""
    numbers = modelled(options.mode, options.batch or BATCHES[options.mode], options.dtype, options.compiled)
    from . import report

    print(report.details(numbers, options.operator) if options.operator else report.text(numbers))
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    return 0


def take_over(options: argparse.Namespace) -> int:
    """Writes down what a GPU has measured and confirmed."""
    from . import confirm, costs, refit

    lines = refit.refit(options.refit, costs.FACTORS) if options.refit else []
    if options.confirm:
        lines += confirm.confirm(options.confirm, ROOT / "aminet_fast" / "ops" / "confirmed.json")
    print("\n".join(lines))
    return 0


def modelled(mode: str, batch: int, dtype: str, prefer_compiled: bool = False) -> dict[str, Any]:
    """Counts and estimates of one call, as report.summary gives them."""
    os.environ.setdefault("TRITON_CACHE_DIR", str(FOLDER / "triton-cache"))
    warnings.simplefilter("ignore")
    import torch
    import triton

    from . import compiled, costs, report, sass
    from .collect import collect
    from .floors import floors

    folder = FOLDER / f"triton-{triton.__version__}"
    launches = collect(mode, batch, dtype, folder, prefer_compiled=prefer_compiled)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the disassembler takes longest
        list(pool.map(sass.read, dict.fromkeys(launch.cubin for launch in launches if launch.cubin)))
    launches = compiled.split(launches)
    found = costs.estimates(launches, compiled.estimate)
    about = {"mode": mode, "batch": batch, "dtype": dtype, "torch": torch.__version__, "triton": triton.__version__}
    return about | report.summary(launches, found, floors(batch, mode))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_model", description=__doc__.split("\n\n")[0])
    parser.add_argument("--mode", choices=list(BATCHES), default="train", help="train: forward, L1, backward")
    parser.add_argument("--batch", type=int, help="images a call; else 32 in training, 1 in inference")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="bf16: autocast in training")
    parser.add_argument("--compiled", action="store_true", help="CUDA C++ wherever an operator has it")
    parser.add_argument("--operator", help="print its kernels at each size instead: norm_act_conv")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--refit", type=Path, metavar="RESULTS", help="factors.json anew, from results-A.jsonl")
    parser.add_argument("--confirm", type=Path, metavar="RESULTS", help="aminet_fast/ops/confirmed.json, from the same")
    options = parser.parse_args(arguments)
    return take_over(options) if options.refit or options.confirm else estimate(options)


if __name__ == "__main__":
    raise SystemExit(main())
