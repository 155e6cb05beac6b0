"""One training step of ours between marks, for a profiler: ``ncu --profile-from-start off python -m ...target``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from .network import OURS, prepared
from .run import Rows, Run


def main() -> None:
    rows = Rows(Path("/dev/null"))
    nothing = Path()
    run = Run(torch.device("cuda"), False, rows, nothing, nothing, argparse.Namespace(), "target", time.time() + 3600)
    _, step = prepared(run, OURS[0])
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    step()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
