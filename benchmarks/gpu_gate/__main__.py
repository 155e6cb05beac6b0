"""``make gpu-gate PHASE=A``: what only a GPU can show, in a few minutes (docs/gpu.md).

Nothing is installed or fetched. Exit status: 0 all sections went well; 1 numbers are wrong, or no parity was reached
in phase A; 3 no CUDA device; 4 numbers are right as far as they were compared, and a section failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from .phases import PHASES, ROOT, WITHIN, chosen

NO_GPU = 3


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.gpu_gate", description=__doc__.split("\n\n")[0])
    made.add_argument("--phase", choices=list(PHASES), default="A")
    made.add_argument("--within", type=float, help="seconds of the whole; else 330, and 560 of C")
    made.add_argument("--out", type=Path, help="folder of the results; else $OUT, else benchmarks/results/gate")
    made.add_argument("--only", help="names of sections, with commas between")
    made.add_argument("--dry-run", action="store_true", help="walk the sections on the CPU with tiny shapes")
    made.add_argument("--pack", type=Path, default=ROOT / ".gpu", help="folder of make gpu-pack; used where it fits")
    made.add_argument(
        "--faces", default=str(ROOT / ".gpu" / "faces"), help='folder of pictures or of faces.zip, or "drawn"'
    )
    made.add_argument("--start", default="scratch", help='C: "scratch", or weights as aminet train takes them: default')
    made.add_argument("--preset", default="aminet", help="C: the network, where it starts from scratch")
    made.add_argument("--resume", type=Path, help="C: folder of what an earlier C left, to go on from")
    made.add_argument("--lr", type=float, default=2e-4, help="C: learning rate")
    made.add_argument("--work", type=Path, default=ROOT / "build" / "gpu-gate", help="folder of what is not kept")
    made.add_argument("--sections", help=argparse.SUPPRESS)  # of the process that runs them
    made.add_argument("--until", type=float, help=argparse.SUPPRESS)
    return made


def main(arguments: list[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    options = parser().parse_args(given)
    options.out = options.out or Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results" / "gate")
    if options.sections is not None:
        from .child import work

        return work(options)
    import torch

    if not torch.cuda.is_available() and not options.dry_run:
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is a CPU build"
        print(
            f"gpu-gate: no usable CUDA device here (torch {torch.__version__} {built}); nothing was run. --dry-run"
            " walks the sections on the CPU.",
            file=sys.stderr,
        )
        return NO_GPU
    from .parent import conduct
    from .report import exit_status, summary

    options.out.mkdir(parents=True, exist_ok=True)
    if not options.resume:
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    results = options.out / f"results-{options.phase}.jsonl"
    results.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sections = chosen(options.phase, options.only)
    rows = conduct(options, given, sections, results, time.time() + (options.within or WITHIN[options.phase]))
    print(summary(rows))
    print(f"results in {options.out}")
    return exit_status(rows, [section.name for section in sections])


if __name__ == "__main__":
    raise SystemExit(main())
