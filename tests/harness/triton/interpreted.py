"""``python -m tests.harness.triton.interpreted <operator>``: its cases by Triton's interpreter, one line each.

A process of its own, because TRITON_INTERPRET=1 has to be there before Triton is imported. Run it in the tree's root.
Exit status 1 when a case fails, 0 when all are right.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from contextlib import nullcontext

os.environ["TRITON_INTERPRET"] = "1"

import torch

from aminet_fast.ops import backends

from .case import DTYPES, Case, cases_of, first_case, operators
from .checks import check_numbers
from .interpreter import correct_bfloat16, correct_scalars, try_every_configuration
from .redzones import watched
from .routing import Routed, kernel_of


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("operator", choices=operators())
    parser.add_argument("--case", help="only this one")
    parser.add_argument("--dtype", choices=[_name(dtype) for dtype in DTYPES], help="only this one")
    parser.add_argument("--fast", action="store_true", help="the operator's first case only, without float16")
    parser.add_argument("--unwatched", action="store_true", help="do not look for races and accesses out of bounds")
    options = parser.parse_args(argv)
    correct_bfloat16()
    correct_scalars()
    try_every_configuration()
    # With kernels for CPU tensors in this process, operators that are called by operators find them too.
    for operator in backends.operators():
        if kernel_of(f"aminet_fast::{operator}_fwd")[1] is not None:
            backends.register(operator, "cpu", "triton", lambda: "")
    cases = [case for case in cases_of(options.operator) if case.interpreted and options.case in (None, case.name)]
    if options.fast:
        cases = [case for case in cases if case == first_case(options.operator)]
    assert cases, "no such case"
    failed = 0
    for case in cases:
        for dtype in case.dtypes:
            if options.dtype in (None, _name(dtype)) and not (options.fast and dtype == torch.float16):
                failed += not tried(case, dtype, not options.unwatched)
    print(f"{failed} of them failed" if failed else "all are right", flush=True)
    return int(failed > 0)


def tried(case: Case, dtype: torch.dtype, watch: bool) -> bool:
    """One case; says how it went."""
    start = time.perf_counter()
    try:
        with watched() if watch else nullcontext(), Routed() as routed:
            check_numbers(case, dtype)
        assert any(name.startswith(f"aminet_fast::{case.operator}_") for name in routed.ran), "no Triton kernel ran"
    except Exception:
        traceback.print_exc(file=sys.stdout)
        print(f"FAILED {case} {_name(dtype)}", flush=True)
        return False
    print(f"ok {case} {_name(dtype)} {time.perf_counter() - start:.1f} s", flush=True)
    return True


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    raise SystemExit(main())
