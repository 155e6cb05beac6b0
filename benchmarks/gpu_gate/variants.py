"""Times of every configuration of the kernels that Triton tunes, at the network's sizes."""

from __future__ import annotations

import sys
from typing import Any

from .network import OURS, noting, prepared
from .operators import calls_of, cases, serving
from .run import Run


def variants(run: Run) -> None:
    """One step of ours and the operators' cases, tuned anew; a row for each kernel, key and configuration.

    CUDA C++ kernels are compiled in one variant each.
    """
    if not run.need_cuda("configurations of autotuned kernels"):
        return
    run.skip("variants of the CUDA C++ kernels", "one of each is compiled in")
    found: list[dict[str, Any]] = []
    with noting(run, OURS[2], "variants"):
        prepared(run, OURS[2])  # imports the kernels, and runs them once as they are tuned
        for tuner in tuners():
            listen(tuner, found)
        written = 0
        for case in run.each(cases(run), "cases", once=True):
            if "triton" in serving(run, case.operator):
                calls_of(run, case, "triton")[1]()
            for row in found[written:]:
                run.write("variant", case=case.name, **row)
            written = len(found)


def tuners() -> list[Any]:
    """Triton's autotuners of the kernels that were imported."""
    from triton.runtime.autotuner import Autotuner

    modules = [module for name, module in sys.modules.items() if name.startswith("aminet_fast.kernels.")]
    members = (value for module in modules for value in vars(module).values())
    return list({id(value): value for value in members if isinstance(value, Autotuner)}.values())


def listen(tuner: Any, found: list[dict[str, Any]]) -> None:
    """Have it measure again what it tuned, and note every configuration's time."""
    tuner.cache.clear()
    tuner.cache_results = False
    before = tuner._bench

    def bench(*args: Any, config: Any, **meta: Any) -> Any:
        times = before(*args, config=config, **meta)
        given = {**tuner.nargs, **meta}
        key = {name: given[name] for name in tuner.keys if isinstance(given.get(name), (int, float, str, bool))}
        milliseconds = times[0] if isinstance(times, (list, tuple)) else times
        found.append({"kernel": tuner.base_fn.__name__, "key": key, "config": str(config), "us": 1e3 * milliseconds})
        return times

    tuner._bench = bench
