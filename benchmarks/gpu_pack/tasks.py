"""Compiles what tasks name into Triton's cache for a GPU that is not here: ``python -m benchmarks.gpu_pack.tasks``.

"train:32:bf16", "infer:1:bf16": a call of the network, as dispatch.json sends it; "...:compiled": with CUDA C++
wherever an operator has it. "cases:skaf_gate:bf16": an operator at the network's sizes, by Triton. "sanitizer": the few
pixels that compute-sanitizer looks at. What a task launches is found by running it on fake tensors, with every
configuration of autotuned kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from . import launchers

NETWORK = (
    *("train:32:bf16", "train:32:bf16:compiled", "infer:1:bf16", "infer:1:bf16:compiled"),
    *("infer:8:bf16", "infer:8:bf16:compiled", "train:32:fp32", "train:32:fp32:compiled"),
)
SANITIZER = "sanitizer"


@dataclass
class Found:
    """(name, hash) of the kernels that were in Triton's cache, or were compiled; the C sources of their launchers."""

    hits: list[tuple[str, str]] = field(default_factory=list)
    misses: list[tuple[str, str]] = field(default_factory=list)
    sources: dict[str, None] = field(default_factory=dict)


@contextlib.contextmanager
def listening(arch: int | None = None) -> Iterator[Found]:
    """What Triton is asked for meanwhile. arch: RuntimeError for a kernel that was compiled for another one."""
    from triton import knobs

    found = Found()

    def listen(*, src: Any, metadata: dict[str, Any], cache_hit: bool, **_: Any) -> None:
        target = metadata["target"]
        if arch is not None and target.arch != arch:
            raise RuntimeError(f"{src.name} was compiled for sm_{target.arch}, wanted sm_{arch}")
        (found.hits if cache_hit else found.misses).append((src.name, metadata["hash"]))
        if source := launchers.source_of(src, metadata):
            found.sources[source] = None

    before, knobs.compilation.listener = knobs.compilation.listener, listen
    try:
        yield found
    finally:
        knobs.compilation.listener = before


def run(task: str, arch: int) -> None:
    """One task. ValueError for a name that is none's."""
    kind, *rest = task.split(":")
    if task == SANITIZER:
        run_sanitizer_target(arch)
    elif kind == "cases" and len(rest) == 2:
        run_cases(*rest, arch)
    elif kind in ("train", "infer") and len(rest) in (2, 3) and rest[2:] in ([], ["compiled"]):
        run_network(kind, int(rest[0]), rest[1], bool(rest[2:]), arch)
    else:
        raise ValueError(f"no task is called {task!r}: {__doc__}")


def run_network(mode: str, batch: int, dtype: str, prefer_compiled: bool, arch: int) -> None:
    from ..gpu_model.collect import collect

    with tempfile.TemporaryDirectory() as folder, for_architecture(arch):
        collect(
            mode, batch, dtype, Path(folder), every_configuration=True, record=False, prefer_compiled=prefer_compiled
        )


def run_cases(operator: str, dtype: str, arch: int) -> None:
    """An operator's cases at the network's sizes, forward and backward, by Triton's kernels."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tests.harness.triton.case import cases_of
    from tests.harness.triton.checks import call_on_fakes
    from tests.harness.triton.routing import Routed

    from ..gpu_model.fake_gpu import compile_only

    wanted = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    for case in cases_of(operator):
        if case.network and wanted in case.dtypes:
            with for_architecture(arch), compile_only(None, True), FakeTensorMode(), Routed():
                call_on_fakes(case, wanted)


def run_sanitizer_target(arch: int) -> None:
    """benchmarks.sanitizer_target on fake CUDA tensors."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from .. import sanitizer_target
    from ..gpu_model.collect import Collector
    from ..gpu_model.fake_gpu import as_on_a_gpu, compile_only

    with contextlib.ExitStack() as stack:
        collector = Collector(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for what, instead in {
            "torch.autograd.grad": _gradients,
            "torch.cuda.synchronize": lambda *_: None,
            "torch.Generator": lambda *_, made=torch.Generator: made(),  # there is none of a device that is not here
            "aminet_fast.ops._devices.load": lambda name: (None, ""),  # the compiled operators are there
        }.items():
            stack.enter_context(mock.patch(what, instead))
        stack.enter_context(mock.patch.object(sys, "argv", ["sanitizer_target", "--device", "cuda"]))
        stack.enter_context(for_architecture(arch))
        stack.enter_context(compile_only(None, True))
        stack.enter_context(as_on_a_gpu(collector.compiled_call))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(collector)
        sanitizer_target.main()


def _gradients(outputs: Any, inputs: Any, incoming: Any, **_: Any) -> Any:
    """In the place of torch.autograd.grad, whose engine asks the CUDA driver for streams."""
    from tests.harness.triton.backward import gradients

    return gradients(list(outputs), list(inputs), list(incoming))


@contextlib.contextmanager
def for_architecture(arch: int) -> Iterator[None]:
    """The static model's GPU is of that architecture: 90."""
    from ..gpu_model import fake_gpu

    with mock.patch.object(fake_gpu, "ARCH", arch):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack.tasks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--arch", type=int, default=90)
    parser.add_argument("--out", type=Path, required=True, help="folder of the launchers' sources and kernels' hashes")
    parser.add_argument("tasks", nargs="+")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    options.out.mkdir(parents=True, exist_ok=True)
    with listening(options.arch) as found:
        for task in options.tasks:
            start, before = time.monotonic(), len(found.misses)
            run(task, options.arch)
            print(f"{task}: {len(found.misses) - before} compiled, {time.monotonic() - start:.0f} s", flush=True)
    for source in found.sources:
        (options.out / f"{launchers.key_of(source)}.c").write_text(source)
    names = {key: name for name, key in (*found.hits, *found.misses)}
    (options.out / f"kernels-{os.getpid()}.json").write_text(json.dumps(names))


if __name__ == "__main__":
    main()
