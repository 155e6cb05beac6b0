"""What is there: the device, versions, what was compiled, tools; and what is missing, with what needs it."""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import os
import platform
import shutil
import subprocess
from typing import Any

import torch

from aminet_fast.ops import backends, confirmation
from aminet_fast.ops.extension import build_facts, load

from .run import Run

# What the sections import, and which of them: the package's own command line and its other extras are not needed.
NEEDED = {
    "numpy": "A, B, C",
    "yaml": "A, B, C",
    "triton": "A, B, C",
    "huggingface_hub": "A's graphs, B's curve, C",
    "safetensors": "A's graphs, B's curve, C",
    "PIL": "B's curve, C",
    "rich": "B's curve, C",
    "accelerate": "B's curve, C",
}
DISTRIBUTIONS = ("torch", "triton", "numpy", "pillow", "safetensors", "huggingface_hub", "accelerate", "rich", "pyyaml")
TOOLS = ("nvcc", "ncu", "compute-sanitizer", "gcc", "nvidia-smi")
CLOCKS = "clocks.sm,clocks.mem,clocks.max.sm,power.draw,power.limit,temperature.gpu,clocks_event_reasons.active"


def missing() -> dict[str, str]:
    """Modules that are not there, and what needs them."""
    return {name: who for name, who in NEEDED.items() if importlib.util.find_spec(name) is None}


def probe(run: Run) -> None:
    run.write(
        "probe",
        python=platform.python_version(),
        cores=len(os.sched_getaffinity(0)),
        versions={name: _version(name) for name in DISTRIBUTIONS},
        missing=missing(),
        tools={name: shutil.which(name) or "" for name in TOOLS},
        device=device_of(run),
        compiled={name: load(name)[1] or "loaded" for name in ("_C", "_C_cuda")},
        architectures=build_facts().get("cuda_architectures", ""),
        operators=operators(run.device.type),
        sources=sources(),
    )
    if gone := missing():
        run.skip("sections that need what is missing", ", ".join(f"{name}: {who}" for name, who in gone.items()))


def device_of(run: Run) -> dict[str, Any]:
    if not run.cuda:
        return {"type": "cpu", "threads": torch.get_num_threads()}
    about = torch.cuda.get_device_properties(0)
    return {
        "type": "cuda",
        "name": about.name,
        "capability": [about.major, about.minor],
        "multiprocessors": about.multi_processor_count,
        "l2_bytes": getattr(about, "L2_cache_size", None),
        "memory_bytes": about.total_memory,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "clocks": clocks(),
    }


def clocks() -> dict[str, str]:
    """As nvidia-smi has them at this moment."""
    try:
        command = ["nvidia-smi", f"--query-gpu={CLOCKS}", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return {"problem": str(error)[:200]}
    return dict(zip(CLOCKS.split(","), (value.strip() for value in done.stdout.split(",")), strict=False))


def operators(device: str) -> dict[str, str]:
    """What would serve each, and what no device has confirmed."""
    importlib.import_module("aminet_fast.ops")
    return {name: str(backends.explain(name, device).reason) for name in backends.operators()}


def sources() -> dict[str, dict[str, str]]:
    """Hashes of the kernels that are here, which a confirmation is of."""
    importlib.import_module("aminet_fast.ops")
    names = backends.operators()
    return {backend: {name: confirmation.source(name, backend) for name in names} for backend in ("triton", "cuda")}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
