"""What is installed, what was compiled, what serves each operator (``aminet info``)."""

from __future__ import annotations

import importlib
import importlib.metadata as metadata
import os
import platform
from json import dumps
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from .. import __version__
from ..network.presets import get_config, list_configs
from ..ops import backends, confirmation, dispatch
from ..ops.extension import build_facts, load
from ..output.console import make_console, print_table
from ..output.extras import EXTRAS
from ..reference.config import AMINetConfig
from .threads import CHOICES

VARIABLES = ("AMINET_FAST_BACKEND", "AMINET_FAST_CPU_CAPABILITY", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", *CHOICES)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    return {
        "aminet_fast": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
        "numpy": _version("numpy"),
        "platform": platform.platform(),
    }


def _devices() -> dict[str, str]:
    devices = {"cpu": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"}
    if torch.version.cuda is None and torch.version.hip is None:
        devices["cuda"] = "none: this torch is a CPU build"
    elif not torch.cuda.is_available():
        devices["cuda"] = f"none: torch is built for CUDA {torch.version.cuda} but finds no usable GPU"
    else:
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            devices[f"cuda:{index}"] = f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB"
    return devices


def _compiled() -> dict[str, str]:
    facts, answer = build_facts(), {}
    for name in ("_C", "_C_cuda"):
        module, problem = load(name)
        answer[name] = problem or f"loaded from {module.__file__}"  # type: ignore[union-attr]
    module, _ = load("_C")
    if module is not None:
        answer["CPU kernels"] = (
            f"{module.cpu_capability()} runs; compiled: {', '.join(facts.get('cpu', ['not recorded']))}"
        )
    for key in ("compiler", "torch", "cxx_flags", "cuda", "nvcc_flags", "cuda_architectures"):
        if key in facts:
            value = facts[key]
            answer[f"built with {key}"] = " ".join(value) if isinstance(value, list) else str(value)
    return answer


def _operators() -> dict[str, str]:
    importlib.import_module("aminet_fast.ops")
    answer = {}
    for operator in backends.operators():
        for device in ("cpu", "cuda"):
            choice = backends.explain(operator, device)
            answer[f"{operator} on {device}"] = f"{choice.backend} ({choice.reason})"
    return answer


def _dispatch() -> dict[str, str]:
    """Rows of the table; the first that fits a call decides."""
    rows = dispatch.table()
    answer = {f"{n}. {row}": f"{row.backend}, {row.basis}: {row.reason}" for n, row in enumerate(rows, 1)}
    return answer | {"every other call on CUDA devices": dispatch.DEFAULT}


def _confirmed() -> dict[str, str]:
    """What GPUs have confirmed, and what of it no longer counts."""
    return {
        f"{entry.operator}, {entry.backend}, {entry.dtype}": f"{entry}"
        + ("" if entry.holds else ": of other kernels than are here, which no GPU has confirmed")
        for entry in confirmation.table()
    }


def _networks() -> dict[str, str]:
    default = AMINetConfig().to_dict()
    answer = {}
    for name in list_configs():
        changes = [f"{k} {v}" for k, v in get_config(name).to_dict().items() if v != default[k]]
        answer[name] = ", ".join(changes) or "the paper's AMINet"
    return answer


def _extras() -> dict[str, str]:
    answer = {}
    for extra, distributions in EXTRAS.items():
        missing = [name for name in distributions if _version(name) is None]
        have = "yes" if distributions else "nothing needs it yet"
        answer[extra] = f"no: {', '.join(missing)} missing" if missing else have
    return answer


def collect() -> dict[str, dict[str, Any]]:
    """Everything the command prints, by section; plain strings, ready for JSON."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "compiled": _compiled(),
        "operators": _operators(),
        "dispatch": _dispatch(),
        "confirmed": _confirmed(),
        "networks": _networks(),
        "extras": _extras(),
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def show(*, json: bool = False) -> int:
    """Print a table, or one JSON object. Returns 0; raises ValueError where AMINET_FAST_BACKEND names no backend."""
    sections = collect()
    if json:
        print(dumps(sections, indent=2))
        return 0
    table = Table(show_header=False, box=None, pad_edge=False)
    for section, rows in sections.items():
        for index, (name, value) in enumerate(rows.items()):
            heading = f"[bold]{section}[/bold]" if index == 0 else ""
            table.add_row(heading, name, escape(str(value or "not installed")))
        table.add_section()
    print_table(make_console(), table)
    return 0
