"""``python -m tests.harness.cuda.faulty``: the planted faults of faulty.cu, and what sees each; JSON.

Each runs in a process of its own, forked: sanitizers and the emulator end it.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable

import torch

from . import build

ORDERS = ("fwd", "rev", "rand")
BLUR, SUMS, TWICE, MIRRORED, PIPED, BY_LAST_BLOCK = range(6)
# As faulty.cu numbers them, each with the kernel that has it.
FAULTS = {
    "missing barrier": BLUR,
    "index in global memory": BLUR,
    "index in shared memory": BLUR,
    "skipped tail": BLUR,
    "divergent barrier": BLUR,
    "shared memory reused without a barrier": SUMS,
    "accumulated by blocks without atomics": SUMS,
    "misaligned vector": TWICE,
    "missing __syncwarp": MIRRORED,
    "missing wait for a copy": PIPED,
    "copied over what is still read": PIPED,
    "missing __threadfence": BY_LAST_BLOCK,
    "a shuffle for a fence": MIRRORED,
}
N = 4 * 64 * 2  # of most; the tails of other kernels need another


def wanted(kernel: int, x: torch.Tensor) -> torch.Tensor:
    """What the kernel computes of x [n]."""
    if kernel == BLUR:
        padded = torch.nn.functional.pad(x, (1, 1))
        return padded[:-2] + padded[1:-1] + padded[2:]
    if kernel == SUMS:
        return torch.stack([x.sum(), (x * x).sum()])
    if kernel == TWICE:
        return 2 * x
    if kernel == MIRRORED:
        return x.view(-1, 32).flip(1).flatten()
    return x.view(-1, 256).sum(0) if kernel == PIPED else x.sum()


def right(kernel: int, fault: int) -> bool:
    """Whether the kernel's numbers are, with that fault."""
    x = torch.randn(N - 7 if kernel in (BLUR, SUMS, TWICE, BY_LAST_BLOCK) else N, generator=torch.manual_seed(0))
    y = torch.full((N,), torch.nan) if kernel != SUMS else torch.zeros(2)
    torch.ops.aminet_fast_emulated.faulty(kernel, x, y, torch.zeros(1, dtype=torch.int32), fault)
    expected = wanted(kernel, x)
    return torch.allclose(y[: expected.numel()], expected.flatten(), atol=1e-4)


def outcome(is_right: Callable[[], bool]) -> str:
    """What a process says that runs it: "right", "wrong numbers", or who ended it."""
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            faulthandler.disable()
            os.dup2(errors.fileno(), 2)
            os._exit(0 if is_right() else 3)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        text = errors.read().decode()
    if status in (0, 3):
        return "wrong numbers" if status else "right"
    seen = re.search(r"emulator: [^(:]*|(Address|Thread)Sanitizer: [\w-]+( race)?|runtime error: .*", text)
    return seen.group().strip() if seen else f"exit status {status}: {text[-2000:]}"


def outcomes(kernel: int, fault: int) -> dict[str, str]:
    """By the order of threads and blocks."""
    found = {}
    for order in ORDERS:
        os.environ["CUDA_EMU_ORDER"] = order
        found[order] = outcome(lambda: right(kernel, fault))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sanitizer", default="", choices=list(build.SANITIZERS))
    options = parser.parse_args()
    torch.ops.load_library(build.sanitized_library(build.HERE / "faulty.cu", options.sanitizer))
    found = {f"none, kernel {kernel}": outcomes(kernel, 0) for kernel in range(6)}
    for number, (name, kernel) in enumerate(FAULTS.items(), 1):
        found[name] = outcomes(kernel, number)
    json.dump(found, sys.stdout, indent=2)


if __name__ == "__main__":
    main()
