"""``python -m benchmarks.gpu_pack.probe``: how many kernels the unpacked pack has and lacks, in its environment.

On a GPU: a real training step and a real inference call. --fake: every launch of the network's tasks looked up, without
a GPU. --stale: only whether the tree is what was packed. Exit status 1: something is missing, or stale.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

from . import launchers, manifest, tasks
from .unpack import ROOT

NAMED = 20


def absent_launchers(sources: Iterable[str]) -> int:
    """How many of the modules that pass arguments are not there for this Python."""
    from triton.runtime.cache import get_cache_manager

    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    wanted = [(source, launchers.LAUNCHER) for source in sources] + [(launchers.utils_source(), launchers.UTILS)]
    managers = [(get_cache_manager(launchers.key_of(source)), name) for source, name in wanted]
    return sum(manager.get_file(f"{name}{suffix}") is None for manager, name in managers)


def real() -> None:
    """A training step of 32 and an inference call of one, in bfloat16."""
    import torch

    from aminet_fast import AMINet, freeze

    model = AMINet().cuda().to(memory_format=torch.channels_last)
    x = torch.rand(32, 3, 128, 128, device="cuda").contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16):
        y = model(x)
    torch.nn.functional.l1_loss(y.float(), x).backward()
    model.to(torch.bfloat16)
    freeze(model)
    with torch.no_grad():
        model(x[:1].to(torch.bfloat16))
    torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack.probe", description=__doc__.split("\n\n")[0])
    parser.add_argument("--pack", type=Path, default=ROOT / ".gpu")
    parser.add_argument("--fake", action="store_true", help="without a GPU")
    parser.add_argument("--all", action="store_true", help="with --fake: every task of the pack, not the network alone")
    parser.add_argument("--stale", action="store_true", help="only compare the tree with the manifest")
    options = parser.parse_args(arguments)
    changed = manifest.stale(ROOT, options.pack)
    print(f"sources other than the pack's: {', '.join(changed) or 'none'}")
    if options.stale:
        return int(bool(changed))
    import torch
    import triton

    warnings.simplefilter("ignore")
    about, begun = manifest.read(options.pack), time.monotonic()
    todo = [task for task in about["tasks"] if options.all or task in tasks.NETWORK]
    print(f"Python {sys.version.split()[0]}, torch {torch.__version__}, Triton {triton.__version__}", flush=True)
    with tasks.listening(about["arch"]) as found:
        for task in todo if options.fake else [""]:
            before = len(found.hits), len(found.misses)
            tasks.run(task, about["arch"]) if task else real()
            hits, misses = len(found.hits) - before[0], len(found.misses) - before[1]
            print(f"{task or 'a step and a call'}: {hits} hits, {misses} misses", flush=True)
    kernels = len({key for _, key in (*found.hits, *found.misses)})
    print(f"in all {len(found.hits)} hits, {len(found.misses)} misses, {kernels} kernels, "
          f"{time.monotonic() - begun:.1f} s")  # fmt: skip
    absent = absent_launchers(found.sources) if found.sources else 0  # on a GPU they have been compiled by now
    print(f"launchers: {len(found.sources)} kinds and cuda_utils; not there for this Python: {absent}")
    for name, key in found.misses[:NAMED]:
        print("  miss", name, key[:12])
    return int(bool(found.misses or absent))


if __name__ == "__main__":
    raise SystemExit(main())
