"""``python -m tests.harness.cuda.emulated <operator>``: the harness's cases, by csrc/cuda/<operator>.cu on the CPU.

Forward and every gradient against the reference in float64, one line a case. Exit status 1 when a case fails. A process
of its own, because sanitizers end it, and because what it registers stays. Run it in the root of the tree.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aminet_fast import ops
from aminet_fast.ops import _library, backends
from tests.harness.triton.case import Case, cases_of, first_case
from tests.harness.triton.checks import check_numbers

from . import build

assert ops.__all__


class Emulated(TorchDispatchMode):
    """Runs operators that csrc/cuda implements by the emulator, whatever the table says, unless they refuse.

    operator: the one whose library is loaded, where others run beside it.
    """

    def __init__(self, operator: str = "") -> None:
        super().__init__()
        self.prefix = operator and f"{operator}_"
        self.ran: list[str] = []  # and what was refused, with the reason
        self.refused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aminet_fast::")
        if name == func._schema.name or name not in _library._implemented or not name.startswith(self.prefix):
            return func(*args, **(kwargs or {}))
        given, _ = _library._without_backend(True, args)
        if problem := _library._implemented[name](*given):  # another kernel serves the call, as on a GPU
            self.ran.append(f"{name} refused: {problem}")
            self.refused = True
            return func(*args, **(kwargs or {}))
        self.ran.append(name)
        return _library.call_compiled(_library.EMULATED, name, given)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("operator")
    parser.add_argument("--case", help="only this one")
    parser.add_argument("--dtype", help="only this one")
    parser.add_argument("--fast", action="store_true", help="the operator's first case only")
    parser.add_argument("--sanitizer", default="", choices=list(build.SANITIZERS))
    parser.add_argument("--define", action="append", default=[], help="for the compiler: FAULT=1")
    options = parser.parse_args(argv)
    source = build.ROOT / "csrc" / "cuda" / f"{options.operator}.cu"
    torch.ops.load_library(build.sanitized_library(source, options.sanitizer, options.define))
    backends.register(options.operator, "cpu", "cuda", lambda: "")
    cases = [case for case in cases_of(options.operator) if case.interpreted and options.case in (None, case.name)]
    if options.fast:
        cases = [case for case in cases if case == first_case(options.operator)]
    assert cases, "no such case"
    trials = [(c, d) for c in cases for d in c.dtypes if options.dtype in (None, str(d).removeprefix("torch."))]
    counts = Counter(tried(case, dtype) for case, dtype in trials)
    print(f"{counts['ok']} ok, {counts['refused']} refused, {counts['FAILED']} failed", flush=True)
    return int(counts["FAILED"] > 0)


def tried(case: Case, dtype: torch.dtype) -> str:
    """One case; says how it went: "ok", "FAILED", or "refused", where other kernels gave all of the right numbers."""
    start = time.perf_counter()
    try:
        with Emulated() as emulated:
            check_numbers(case, dtype, backend="cuda")
        assert emulated.ran, "no emulated kernel ran"
        # The network's calls, of which the first case is one, are those that the kernels are for.
        assert not (emulated.refused and case == first_case(case.operator)), emulated.ran
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(f"FAILED {case} {dtype}", flush=True)
        return "FAILED"
    how = "refused" if all(" refused: " in ran for ran in emulated.ran) else "ok"
    ran = ", ".join(dict.fromkeys(emulated.ran))
    print(f"{how} {case} {dtype} {time.perf_counter() - start:.1f} s: {ran}", flush=True)
    return how


if __name__ == "__main__":
    raise SystemExit(main())
