"""What the way costs in which OpenMP's threads wait for each other, alone and beside processes that want the cores.

``python -m benchmarks.waiting`` runs a training step (batch 4) and inference (batch 1, after `freeze`) of aminet-small,
ours and plain PyTorch, in a fresh process for each setting, because the library reads it once. Settings take turns,
alone and then beside as many endless loops as there are cores; the table has medians over the rounds, in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aminet_fast.commands.threads import CHOICES

SETTINGS = ("", "GOMP_SPINCOUNT=1000", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=30000",
            "OMP_WAIT_POLICY=PASSIVE", "OMP_NUM_THREADS=1")  # fmt: skip
WHAT = ("training, ours", "training, eager", "inference, ours", "inference, eager")


def measure(what: list[str], seconds: float) -> dict[str, float]:
    """Milliseconds of one call of each of `what`, medians over that many seconds each."""
    import torch

    from aminet_fast import AMINet, freeze

    from .model import make_step

    found = {}
    for name in what:
        kind, _, whose = name.partition(", ")
        torch.manual_seed(0)
        model = AMINet("aminet-small", "reference" if whose == "eager" else None)
        model = model.to(memory_format=torch.channels_last)
        x = torch.rand(4 if kind == "training" else 1, 3, 128, 128).contiguous(memory_format=torch.channels_last)
        if kind == "training":
            call = make_step(model, model, x, torch.rand_like(x), "float32")
        else:
            freeze(model)

            def call(model: AMINet = model, x: torch.Tensor = x) -> None:
                with torch.no_grad():
                    model(x)

        found[name] = _median(call, seconds)
    return found


def _median(call: Callable[[], object], seconds: float) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 2:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _in_process(setting: str, arguments: list[str]) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    if setting:
        name, _, value = setting.partition("=")
        environment[name] = value
    command = [sys.executable, "-m", "benchmarks.waiting", "--one", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def _spin() -> None:
    while True:
        pass


@contextmanager
def _neighbours(count: int) -> Iterator[None]:
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each of the four measurements in a process")
    parser.add_argument("--one", action="store_true", help="measure in this process, as it was started")
    parser.add_argument("--ours", action="store_true", help="leave plain PyTorch out, which takes most of the time")
    parser.add_argument("--beside", type=int, help="so many busy processes; without it, none and then one a core")
    options = parser.parse_args()
    what = [name for name in WHAT if not options.ours or name.endswith("ours")]
    if options.one:
        print(json.dumps(measure(what, options.seconds)))
        return
    arguments = ["--seconds", str(options.seconds), *(["--ours"] if options.ours else [])]
    for neighbours in (0, os.cpu_count() or 1) if options.beside is None else (options.beside,):
        rounds: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
        with _neighbours(neighbours):
            for _ in range(options.rounds):
                for setting, seen in rounds.items():
                    seen.append(_in_process(setting, arguments))
        print(
            f"\nbeside {neighbours} busy processes, {options.rounds} rounds: {', '.join(what)}, ms (smallest, largest)"
        )
        for setting, seen in rounds.items():
            print(f"{setting or 'as it is':<25}" + "".join(_cell([found[name] for found in seen]) for name in what))


def _cell(times: list[float]) -> str:
    return f"{statistics.median(times):>8.0f} ({min(times):.0f}, {max(times):.0f})"


if __name__ == "__main__":
    main()
