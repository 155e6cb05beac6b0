"""What the way costs in which OpenMP's threads wait for each other, alone and beside processes that want the cores.

``python -m benchmarks.waiting`` runs a training step and inference (after `freeze`) of aminet-small at batch 1 in a
fresh process for each setting, because the library reads it once; settings take turns. Each is timed alone and then
beside as many endless loops as there are cores. Printed are medians over the rounds, and the smallest and largest.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aminet_fast.commands.threads import CHOICES

SETTINGS = ("", "GOMP_SPINCOUNT=1000", "GOMP_SPINCOUNT=10000", "GOMP_SPINCOUNT=30000", "GOMP_SPINCOUNT=100000",
            "OMP_WAIT_POLICY=PASSIVE", "OMP_NUM_THREADS=1")  # fmt: skip


def measure(backend: str | None, seconds: float) -> dict[str, float]:
    """Milliseconds of a call of each kind, medians over that many seconds."""
    import torch

    from aminet_fast import AMINet, freeze

    from .model import make_step

    torch.manual_seed(0)
    model = AMINet("aminet-small", backend).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(1, 3, 128, 128).contiguous(memory_format=torch.channels_last)
    step = make_step(model, model, x, torch.rand_like(x), "float32")

    def infer() -> None:
        with torch.no_grad():
            model(x)

    found = {}
    for kind, call in (("training", step), ("inference", infer)):
        if kind == "inference":
            freeze(model)
        call()
        found[f"{kind}, alone"] = _median(call, seconds)
        with _neighbours(os.cpu_count() or 1):
            found[f"{kind}, beside"] = _median(call, seconds)
    return found


def _median(call: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


@contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """So many processes that never rest."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def _in_process(setting: str, arguments: list[str]) -> dict[str, float]:
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    if setting:
        name, _, value = setting.partition("=")
        environment[name] = value
    command = [sys.executable, "-m", "benchmarks.waiting", "--one", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2, help="of each of the four measurements in a process")
    parser.add_argument("--backend", help="reference: plain PyTorch in place of this package")
    parser.add_argument("--one", action="store_true", help="measure in this process, as it was started")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.backend, options.seconds)))
        return
    arguments = ["--seconds", str(options.seconds), *(["--backend", options.backend] if options.backend else [])]
    rounds: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for _ in range(options.rounds):
        for setting, seen in rounds.items():
            seen.append(_in_process(setting, arguments))
            print(f"{setting or 'as it is'}: {seen[-1]}", file=sys.stderr, flush=True)
    names = list(rounds[""][0])
    print(f"{options.rounds} rounds, ms{'':<12}" + "".join(f"{name:>25}" for name in names))
    for setting, seen in rounds.items():
        print(f"{setting or 'as it is':<25}" + "".join(_cell([found[name] for found in seen]) for name in names))


def _cell(times: list[float]) -> str:
    return f"{f'{statistics.median(times):.0f} ({min(times):.0f}, {max(times):.0f})':>25}"


if __name__ == "__main__":
    main()
