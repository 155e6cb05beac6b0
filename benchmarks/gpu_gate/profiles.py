"""torch.profiler of one training step of each contender: every kernel, in order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .network import EAGER, OURS, contenders, free, noting, prepared
from .run import Run

LONGEST = 12  # names that other sections look at closer


def profiles(run: Run) -> None:
    warm(run)
    order = [OURS[0], OURS[1], EAGER[1], OURS[2]][: 2 if run.tiny else 4]
    there = contenders(run)
    for contender in run.each([c for c in order if c in there], "profiles", reserve=8 if run.cuda else 1, once=True):
        with noting(run, contender, "profile"):
            _, step = prepared(run, contender)
            step()
            run.write(
                "profile", contender=str(contender), batch=run.sizes.batch, dtype="bfloat16", **kernels(run, step)
            )
        free(run)


def warm(run: Run) -> None:
    """The first profile of a process is not whole."""
    kernels(run, lambda: torch.ones(2, device=run.device).sum())


def kernels(run: Run, work: Callable[[], object]) -> dict[str, Any]:
    """Of one call: {"names", "launches": [[index of its name, us], ...] in order, "table": [[name, count, us], ...]}.

    On a CPU torch's operators stand in for kernels.
    """
    kind = ProfilerActivity.CUDA if run.cuda else ProfilerActivity.CPU
    with profile(activities=[kind]) as profiled:
        work()
        if run.cuda:
            torch.cuda.synchronize()
    raw = profiled.profiler.kineto_results.events()  # type: ignore[union-attr]
    wanted = torch.autograd.DeviceType.CUDA if run.cuda else torch.autograd.DeviceType.CPU
    events = sorted((e for e in raw if e.device_type() == wanted and e.duration_ns() > 0), key=lambda e: e.start_ns())
    names = list(dict.fromkeys(event.name() for event in events))
    index = {name: number for number, name in enumerate(names)}
    launches = [[index[event.name()], event.duration_ns() / 1e3] for event in events]
    counts: Counter[str] = Counter(event.name() for event in events)
    total: Counter[str] = Counter()
    for number, us in launches:
        total[names[number]] += us
    table = [[name, counts[name], us] for name, us in total.most_common()]
    begun = min((e.start_ns() for e in events), default=0)
    span = max((e.start_ns() + e.duration_ns() for e in events), default=0) - begun
    return {
        "count": len(launches),
        "us": sum(total.values()),
        "span_us": span / 1e3,
        "names": names,
        "launches": launches,
        "table": table,
    }


def longest(run: Run) -> list[str]:
    """Names of the kernels that take most of our step, the longest first."""
    warm(run)
    _, step = prepared(run, OURS[0])
    return [name for name, _, _ in kernels(run, step)["table"][:LONGEST]]
