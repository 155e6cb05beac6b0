"""``python -m tests.harness.triton.warm``: compiles the cases' kernels for the GPU that is here, on all cores.

They end in Triton's cache, where the processes that follow find them. Exit status 0, whatever does not compile: what
runs it shows it.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context

import torch

from .case import cases_of, first_case, operators


def compiled(operator: str, name: str, dtype: torch.dtype, arch: int) -> str:
    """One case; "" or what went wrong."""
    from .checks import check_compiles

    (case,) = (case for case in cases_of(operator) if case.name == name)
    try:
        check_compiles(case, dtype, arch)
    except Exception as error:
        return f"{case} {dtype}: {type(error).__name__}: {str(error)[:300]}"
    return ""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--arch", type=int, help="80, 90, ...; else that of the GPU")
    parser.add_argument("--seconds", type=float, default=600, help="no case is begun later")
    parser.add_argument("--fast", action="store_true", help="the operators' first cases only")
    options = parser.parse_args(argv)
    arch = options.arch
    if arch is None:
        major, minor = torch.cuda.get_device_capability()
        arch = 10 * major + minor
    end = time.monotonic() + options.seconds
    # What other steps need first, then what takes longest.
    todo = [(case, dtype) for operator in operators() for case in cases_of(operator) for dtype in case.dtypes]
    first = [first_case(operator) for operator in operators()]
    todo = [(case, dtype) for case, dtype in todo if case in first or not options.fast]
    todo.sort(key=lambda trial: (trial[0] not in first, not trial[0].network))
    failed = 0
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        waiting: list[Future[str]] = [pool.submit(compiled, c.operator, c.name, dtype, arch) for c, dtype in todo]
        for future in as_completed(waiting):
            if time.monotonic() > end:
                pool.shutdown(cancel_futures=True, wait=False)
                print("no time left")
                break
            if not future.cancelled() and future.result():
                failed += 1
                print(future.result())
    print(f"{len(todo)} cases, {failed} do not compile, for sm_{arch}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
