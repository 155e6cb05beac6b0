"""Estimates a training step or an inference call of this tree on an H200, without a GPU.

From the project's root, with the project's interpreter:  python ../shared/gpumodel/step.py --mode train
"""

from __future__ import annotations

import argparse
import json
import os

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import sys




ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--batch", type=int, help="images a call; else 32 in training, 1 in inference")
    parser.add_argument("--mode", choices=("train", "infer"), default="train")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="bf16: autocast in training")
    parser.add_argument("--compiled", action="store_true", help="CUDA C++ wherever there is some")
    parser.add_argument("--out", type=Path, help="folder for kernels and reports; else a cache of the user's")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    batch = options.batch or (32 if options.mode == "train" else 1)
    if not Path("tests/triton_harness.py").exists():
        raise SystemExit("step.py: run it from the project's root (no tests/triton_harness.py here)")
    warnings.simplefilter("ignore")
    import torch
    import triton

    from . import compiled
    from . import costs
    from . import report
    from . import sass
    from .collect import collect
    from .floors import floors

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aminet-gpumodel" / triton.__version__
    folder = options.out or cache
    launches = collect(options.mode, batch, options.dtype, folder / "kernels", prefer_compiled=options.compiled)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the disassembler takes longest
        list(pool.map(sass.read, dict.fromkeys(launch.cubin for launch in launches if launch.cubin)))
    launches = compiled.split(launches, Path.cwd(), folder)
    found = costs.estimates(launches, compiled.estimate)
    about = {"mode": options.mode, "batch": batch, "dtype": options.dtype, "torch": torch.__version__}
    numbers = about | {"triton": triton.__version__} | report.summary(launches, found, floors(batch, options.mode))
    what = "training step" if options.mode == "train" else "inference"
    title = f"{what}, batch {batch}, {options.dtype}; torch {torch.__version__}, Triton {triton.__version__}"
    printed = report.text(numbers, title)
    print(printed)
    if options.out:
        (options.out / "report.txt").write_text(printed + "\n")
    for path in filter(None, (options.json, options.out and options.out / "step.json")):
        path.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
