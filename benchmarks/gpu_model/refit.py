"""The model's factors from what a GPU measured: ``python -m benchmarks.gpu_model --refit RESULTS``.

RESULTS is a results-A.jsonl of make gpu-gate. Its profiles list every kernel of a training step in order; the model
lists every launch of the same step with what its busiest unit takes. A kernel's factor is the median of measured by
static over its launches. Kernels that were not measured keep theirs.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LEAST_STATIC = 0.5  # us: what is shorter says more of a launch than of the kernel
OURS = {"ours-auto": False, "ours-cuda": True}  # profile: whether the model is to prefer CUDA C++
FOREIGN = ("at::", "cutlass", "cudnn", "cublas")  # names of kernels that are torch's


@dataclass(frozen=True)
class Static:
    """A launch of the model. kind: "triton" or "cuda". us: of its busiest unit alone."""

    kind: str
    kernel: str
    us: float
    constants: dict[str, Any] = field(default_factory=dict)


def statics(prefer_compiled: bool) -> list[Static]:
    """The launches of a bfloat16 training step of 32 faces, in order; compiles them for the model."""
    from concurrent.futures import ThreadPoolExecutor

    from . import FOLDER, compiled, costs, sass
    from .collect import collect

    os.environ.setdefault("TRITON_CACHE_DIR", str(FOLDER / "triton-cache"))
    launches = collect("train", 32, "bf16", FOLDER / "refit", prefer_compiled=prefer_compiled)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the disassembler takes longest
        list(pool.map(sass.read, dict.fromkeys(launch.cubin for launch in launches if launch.cubin)))
    launches = compiled.split(launches)
    found = costs.estimates(launches, compiled.estimate)
    pairs = [(launch, one) for launch, one in zip(launches, found, strict=True) if launch.kind != "aten"]
    return [Static(launch.kind, launch.name, one.static, launch.constants) for launch, one in pairs]


def refit(results: Path, factors: Path, known: Callable[[bool], Sequence[Static]] = statics) -> list[str]:
    """Rewrite the factors' file; a line for each kernel, as it was and as it is.

    known: gives the model's launches; its argument is whether CUDA C++ is preferred.

    Raises ValueError where the results have no profile of a GPU.
    """
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines() if line.strip()]
    about = next((row for row in rows if row["row"] == "about"), {}).get("machine", {})
    profiles = {row["contender"]: row for row in rows if row["row"] == "profile" and row["contender"] in OURS}
    if about.get("device_type") != "cuda" or not profiles:
        raise ValueError(f"{results} has no profile of a GPU; make gpu-gate PHASE=A writes one")
    data = json.loads(factors.read_text(encoding="utf-8"))
    measured: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for contender, profile in profiles.items():
        for key, found in ratios(profile, known(OURS[contender]), data["kernels"]).items():
            measured[key] += found
    name = fit_name(about, data["fits"])
    data["fits"][name] = {
        "device": about["device"],
        "torch": about["torch"],
        "triton": versions(rows).get("triton") or "",
        "date": time.strftime("%Y-%m-%d"),
        "measured": True,
        "source": f"profiles of a training step, commit {about.get('commit')}: medians of measured by static",
    }
    lines = [
        replaced(data["kernels"], key, statistics.median(found), len(found), name) for key, found in measured.items()
    ]
    used = {row["fit"] for row in [*data["kernels"], *data["others"]]}
    data["fits"] = {fit: said for fit, said in data["fits"].items() if fit in used}
    factors.write_text(written(data), encoding="utf-8")
    return sorted(lines)


def ratios(
    profile: dict[str, Any], launches: Sequence[Static], rows: list[dict[str, Any]]
) -> dict[tuple[str, str, str], list[float]]:
    """measured by static, by (kind, kernel, the constants of the row that it falls under, as JSON).

    Launch by launch where both sides have as many of a kernel; else the ratio of all together.
    """
    took: dict[str, list[float]] = defaultdict(list)
    for index, us in profile["launches"]:
        if not any(word in profile["names"][index] for word in FOREIGN):
            took[named(profile["names"][index])].append(us)
    modelled: dict[str, list[Static]] = defaultdict(list)
    for launch in launches:
        modelled[launch.kernel].append(launch)
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for kernel, ours in modelled.items():
        if not took[kernel]:
            continue
        if len(took[kernel]) == len(ours):
            for us, launch in zip(took[kernel], ours, strict=True):
                if launch.us >= LEAST_STATIC:
                    found[launch.kind, kernel, constants_of(launch, rows)].append(us / launch.us)
        elif (static := sum(launch.us for launch in ours)) >= LEAST_STATIC:
            keys = {(launch.kind, kernel, constants_of(launch, rows)) for launch in ours}
            for key in keys:
                found[key].append(sum(took[kernel]) / static)
    return found


def constants_of(launch: Static, rows: list[dict[str, Any]]) -> str:
    """Those of the first row that is of this launch; "{}" where there is none."""
    for row in rows:
        constants = row.get("constants", {})
        fits = all(bool(launch.constants.get(name)) == value for name, value in constants.items())
        if (row["kind"], row["kernel"]) == (launch.kind, launch.kernel) and fits:
            return json.dumps(constants, sort_keys=True)
    return "{}"


def replaced(rows: list[dict[str, Any]], key: tuple[str, str, str], factor: float, count: int, fit: str) -> str:
    """Set the row of `key`, or add one behind the others; what was done, in words."""
    kind, kernel, constants = key
    factor = round(factor, 2)
    for row in rows:
        same = json.dumps(row.get("constants", {}), sort_keys=True) == constants
        if (row["kind"], row["kernel"]) == (kind, kernel) and same:
            before = row["factor"]
            row |= {"factor": factor, "fit": fit}
            return f"{kernel} ({kind}): {before} -> {factor}, {count} launches"
    rows.append({"kind": kind, "kernel": kernel, "factor": factor, "fit": fit})
    return f"{kernel} ({kind}): {factor}, {count} launches; it had none of its own"


def named(name: str) -> str:
    """As the model names kernels: "void aminet::(anonymous namespace)::front<__nv_bfloat16>(...)" is front<bf16>."""
    for word, other in (("aminet::", ""), ("(anonymous namespace)::", ""), ("__nv_bfloat16", "bf16"), ("void ", "")):
        name = name.replace(word, other)
    depth = 0
    for n, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:n]
    return name


def versions(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return next((row["versions"] for row in rows if row["row"] == "probe"), {})


def fit_name(about: dict[str, Any], taken: dict[str, Any]) -> str:
    """One that no other fit has: "nvidia-h200-step"."""
    base = re.sub(r"[^a-z0-9]+", "-", str(about["device"]).lower()).strip("-") + "-step"
    number, name = 1, base
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name


def written(data: dict[str, Any]) -> str:
    """JSON with a factor a line, so that differences can be read."""
    lines = ["{"]
    for name, value in data.items():
        end = "" if name == list(data)[-1] else ","
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            lines.append(f" {json.dumps(name)}: [\n{rows}\n ]{end}")
        else:
            body = json.dumps(value, indent=1).replace("\n", "\n ")
            lines.append(f" {json.dumps(name)}: {body}{end}")
    return "\n".join([*lines, "}"]) + "\n"
