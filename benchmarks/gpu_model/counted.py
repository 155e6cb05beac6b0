"""What the CUDA C++ of an operator's call launches, and what a block of each launch does: counted by the emulator.

The host code of csrc/cuda runs on the CPU against the tests' emulator, with tensors of the call's sizes; of each launch
some blocks run, and their loads, stores, copies, products and barriers are counted by place in the
source. That is a process of its own, because a kernel may end it.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from . import FOLDER, ROOT
from .flow import Site
from .lined import Place, kernel_files, place

EMULATOR = ROOT / "tests" / "harness" / "cuda"
SAMPLED = 3  # blocks of a launch
# Kernels that run in full, because others take from what they make how often they loop.
WHOLE = ("sort_kernel",)
OPTIMIZED = ["-O1", "-g", "-fno-omit-frame-pointer"]
# Everything is inlined, as nvcc does, so that a place has all the lines that led to it.
INLINED = ["-finline-functions", "-finline-small-functions"]
LIMITS = ("max-inline-insns-auto", "max-inline-insns-single", "large-function-growth", "large-stack-frame-growth")
INLINED += [f"--param={limit}=1000000" for limit in (*LIMITS, "inline-unit-growth", "early-inlining-insns")]
# Every access to memory is announced to counters.cpp, and the emulator's own code for ThreadSanitizer stays out.
HOOKED = ["-fsanitize=thread", "-U__SANITIZE_THREAD__"]
LOOKED_AT = ("aoti_torch_get_data_ptr", "torch_get_mutable_data_ptr", "torch_get_const_data_ptr")
Call = tuple[str, Any]  # a compiled function's name and its arguments, as launches.stand_ins describes them


@dataclass(frozen=True)
class Counted:
    """A launch. Numbers are averages of the blocks that ran."""

    name: str  # as the source calls the kernel
    symbol: str
    grid: tuple[int, ...]
    threads: int  # of a block
    shared: int  # bytes of a block
    sites: tuple[Site, ...]
    bytes: float  # that the whole launch reads and writes, of each tensor once at most


class CountingError(Exception):
    """Why a call's launches could not be counted."""


def source_of(name: str) -> Path:
    """The source that has a compiled function: the longest name that begins its own."""
    from tests.harness.cuda import build

    fitting = [source for source in build.sources() if name.startswith(source.stem)]
    if not fitting:
        raise CountingError(f"no source in csrc/cuda has {name}")
    return max(fitting, key=lambda source: len(source.stem))


def item_bytes(value: Any) -> int:
    """Of the floating-point tensors among a call's arguments the smallest item: 2 or 4."""
    if isinstance(value, dict) and "stride" in value:
        dtype = getattr(torch, value["dtype"])
        return dtype.itemsize if dtype.is_floating_point else 4
    return min(map(item_bytes, value), default=4) if isinstance(value, list) else 4


@cache
def library(source: Path, running: bool = True, item: int = 2) -> Path:
    """The source with the emulator and the counters, a Python module `counters`; kept by the text of all of them.

    running: False where launches are only told; without kernels it compiles in seconds. item: 2 or 4, bytes of the one
    type of which the kernels are compiled.
    """
    from torch.utils.cpp_extension import include_paths

    from tests.harness.cuda import build, nvcc

    try:
        import pybind11
    except ImportError:
        raise CountingError("pybind11 is not installed (pip install -e '.[dev]')") from None
    flags = ["-x", "c++", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", *build.build_plan.STABLE_ABI]
    includes = [ROOT / "csrc", EMULATOR, pybind11.get_include(), sysconfig.get_path("include"), *include_paths()]
    flags += [f"-I{path}" for path in [*includes, build.cuda_headers()]]
    headers = sorted(EMULATOR.glob("*.h"))
    counters = _object(EMULATOR / "counters.cpp", [*flags, "-O1"], headers)
    flags.append(f"-DEMULATED_COUNTED={item}")
    how = [*OPTIMIZED, *INLINED, *HOOKED, "-include", str(EMULATOR / "counters.h")]
    if not running:
        how = ["-O0", "-include", str(EMULATOR / "notes.h")]
    counted = _object(source, [*flags, *how], [*headers, *sorted(nvcc._included(source))])
    target = counted.with_name(f"{counted.stem}-{counters.stem.rpartition('-')[2]}.so")
    if not target.exists():
        libraries = Path(torch.__file__).parent / "lib"
        command = [os.environ.get("CXX", "g++"), "-shared", str(counters), str(counted)]
        command += [*(f"-Wl,--wrap={name}" for name in LOOKED_AT), f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
        _run([*command, "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"], target)
    return target


def _object(source: Path, flags: Sequence[str], read: Sequence[Path]) -> Path:
    """The source compiled; read: what it includes of this project."""
    text = b"".join(path.read_bytes() for path in [source, *read]) + " ".join([*flags, torch.__version__]).encode()
    target = FOLDER / "counted" / f"{source.stem}-{hashlib.sha256(text).hexdigest()[:16]}.o"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        _run([os.environ.get("CXX", "g++"), *flags, "-c", str(source)], target)
    return target


def _run(command: list[str], target: Path) -> None:
    part = target.with_suffix(f".{os.getpid()}.{threading.get_ident()}")
    result = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise CountingError(f"{target.name}: {result.stderr[-2000:]}")
    part.rename(target)


def count(calls: Sequence[Call], running: bool = True) -> list[list[Counted] | CountingError]:
    """The launches of each call, or why there are none; kept by call and library. running: as of `library`."""
    found: dict[int, list[Counted] | CountingError] = {}
    waiting: dict[tuple[Path, int], list[int]] = {}
    for n, (name, given) in enumerate(calls):
        try:
            waiting.setdefault((source_of(name), item_bytes(given)), []).append(n)
        except CountingError as error:
            found[n] = error

    def counts(source: Path, item: int) -> Sequence[list[Counted] | CountingError]:
        numbers = waiting[source, item]
        try:
            return launches_of(library(source, running, item), [calls[n] for n in numbers])
        except (CountingError, FileNotFoundError) as error:
            return [CountingError(str(error))] * len(numbers)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # compilers and emulators are processes of their own
        for numbers, those in zip(waiting.values(), pool.map(counts, *zip(*waiting, strict=True)), strict=True):
            found |= dict(zip(numbers, those, strict=True))
    return [found[n] for n in range(len(calls))]


def launches_of(
    made: Path, calls: Sequence[Call], files: frozenset[str] = kernel_files()
) -> list[list[Counted] | CountingError]:
    """Of calls of one library's functions. files: whose lines are places."""
    raw = _counted(made, calls)
    addresses = sorted({site["place"] for one in raw if "launches" in one for site in _sites(one)})
    places = _places(made, addresses, files)
    symbols = _symbols(made)
    found: list[list[Counted] | CountingError] = []
    for one in raw:
        if "error" in one:
            found.append(CountingError(one["error"]))
        else:
            found.append([_launch(launch, symbols, places) for launch in one["launches"]])
    return found


def _sites(one: dict[str, Any]) -> list[dict[str, Any]]:
    return [site for launch in one["launches"] for site in launch["sites"]]


def _counted(made: Path, calls: Sequence[Call]) -> list[dict[str, Any]]:
    """What emulated.py says of each call: {"launches": ...} or {"error": ...}."""
    kept = made.with_suffix(f".{SAMPLED}.jsonl")
    known = dict(json.loads(line) for line in kept.read_text().splitlines()) if kept.exists() else {}
    keys = [json.dumps(call) for call in calls]
    while missing := [key for key in dict.fromkeys(keys) if key not in known]:
        fresh = _emulated(made, missing)
        if len(fresh) < len(missing) and not any("fatal" in one for one in fresh):
            fresh.append({"error": "the emulator stopped without a word", "fatal": True})
        known |= dict(zip(missing, fresh, strict=False))
    kept.write_text("".join(json.dumps([key, one]) + "\n" for key, one in known.items()))
    return [known[key] for key in keys]


def _emulated(made: Path, calls: list[str]) -> list[dict[str, Any]]:
    """Of the calls up to the first that ends the process."""
    paths = [str(ROOT), *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_EMU")}
    # What is not written yet is zeros: a kernel may take a number from it.
    environ |= {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "MALLOC_PERTURB_": "255"}
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "calls"), Path(folder, "told")
        asked.write_text("\n".join(calls))
        told.touch()
        command = [sys.executable, "-m", f"{__package__}.emulated", str(made), str(asked), str(told)]
        command += ["--sample", str(SAMPLED), "--whole", *WHOLE]
        result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        found = [json.loads(line) for line in told.read_text().splitlines()]
    if result.returncode and len(found) < len(calls):
        found.append({"error": result.stderr.strip()[-500:] or f"exit status {result.returncode}", "fatal": True})
    return found


def _places(made: Path, addresses: Sequence[int], files: frozenset[str]) -> dict[int, Place]:
    """Lines of code addresses: those of calls, so one byte before them."""
    text = "".join(f"{address - 1:#x}\n" for address in addresses)
    command = ["addr2line", "-a", "-i", "-e", str(made)]
    lines = subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout.splitlines()
    frames: list[list[tuple[str, int]]] = []
    for line in lines:
        if line.startswith("0x"):
            frames.append([])
        else:
            path, _, number = line.split(" (")[0].rpartition(":")
            frames[-1].append((path, int(number) if number.isdigit() else 0))
    return {address: place(those, files) for address, those in zip(addresses, frames, strict=True)}


@cache
def _symbols(made: Path) -> dict[int, str]:
    lines = subprocess.run(["nm", str(made)], capture_output=True, text=True, check=True).stdout.splitlines()
    parts = [line.split() for line in lines]
    return {int(part[0], 16): part[2] for part in parts if len(part) == 3 and part[1] in "tTwWu"}


def _launch(raw: dict[str, Any], symbols: dict[int, str], places: dict[int, Place]) -> Counted:
    blocks, ran = 1, max(1, raw["sampled"])
    for size in raw["grid"]:
        blocks *= size
    threads = raw["block"][0] * raw["block"][1] * raw["block"][2]
    warps = -(-threads // 32)
    sites = []
    for site in raw["sites"]:
        name = f"{site['event']} {site['space']}" if site["event"] in ("load", "store") else site["event"]
        unit = site["bytes"] if site["event"] in ("load", "store") else 1
        each = site["warps"] / ran / warps, site["threads"] / ran / threads
        sites.append(Site(places[site["place"]], name, unit, *each))
    moved = 0.0
    for of in raw["ranges"]:
        moved += sum(min(of["bytes"], of[way] / ran * blocks) for way in ("read", "written"))
    shared = raw["dynamic_bytes"] + raw["static_bytes"]
    symbol = symbols.get(raw["kernel"], "")
    return Counted(raw["name"].strip("()"), symbol, tuple(raw["grid"]), threads, shared, tuple(sites), moved)
