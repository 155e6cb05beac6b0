"""The launches inside of a compiled operator (csrc/cuda), and what they take.

Its host code runs on the CPU, compiled against the tests' emulator with record.h in front, which notes launches;
kernels are looked up by symbol in the built _C_cuda. Times come from a table of operators, see BUSIEST.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import FOLDER, ROOT, sass
from .costs import BANDWIDTH, GAP, SHORTEST, Estimate, unit_times
from .launches import Launch

COMPILED = {
    "bytes": 1.3,
    "tensor": 1.3,
    "not modelled": 1.3,
    "table": 1.6,
    "issue": 1.6,
    "lsu": 1.6,
    "fma": 1.6,
    "alu": 1.6,
    "xu": 1.6,
}

HERE = Path(__file__).resolve().parent
REFERENCE = 32 * 128 * 128, 24  # pixels and channels that BUSIEST is of
# us of the busiest unit at 24@128, batch 32, data of 16 bits, counted in SASS by hand (trip counts are not derived for
# CUDA C++); power of the channels that it grows with.
BUSIEST = {
    "rdfe_front_fwd": (58.0, 1),
    "rdfe_front_bwd": (240.0, 1),  # two walks of 95, and the gradient of the mix
    "skaf_descriptor_fwd": (80.0, 2),  # bound by mma.sync
    "skaf_descriptor_bwd_input": (191.0, 1.2),
    "skaf_descriptor_bwd_parameters": (220.0, 1.2),  # as Triton's, for want of better
    "channel_attention_fwd": (82.0, 1),  # as Triton's, which were measured; the machine code looks no better
    "channel_attention_bwd": (320.0, 1),
    "multiscale_dwconv_fwd": (45.0, 1),  # measured, 92 us
    "multiscale_dwconv_bwd": (115.0, 1),  # measured, 237 us
}


def split(launches: list[Launch], root: Path = ROOT, folder: Path = FOLDER) -> list[Launch]:
    """The calls of compiled operators replaced by their launches; as they are where these cannot be found out."""
    found: list[Launch] = []
    for launch in launches:
        if launch.kind != "cuda":
            found.append(launch)
            continue
        try:
            found += _launches_of(launch, root, folder)
        except Exception as error:  # the estimate must not end with a header that moved
            _warn(f"{launch.name}: its launches could not be noted ({type(error).__name__}: {str(error)[:200]})")
            found.append(launch)
    return found


@functools.cache
def _warn(text: str) -> None:
    print(f"gpumodel: {text}", file=sys.stderr)


_known: dict[str, list[tuple[str, tuple[int, ...], int]]] = {}


def _launches_of(call: Launch, root: Path, folder: Path) -> list[Launch]:
    key = f"{call.name} {call.arguments}"
    if key not in _known:
        _known[key] = _noted(call, root)
    codes = _codes(root, folder)
    noted = []
    for symbol, grid, threads in _known[key]:
        code = codes.get(symbol)
        about = {"symbol": symbol, "call": call.name, "instructions": code.instructions if code else 0, "code": code}
        noted.append(replace(call, name=_short(symbol), grid=grid, warps=-(-threads // 32), constants=about))
    # The whole operator's time goes to the kernel with most to do, and the others are as short as can be.
    main = max(noted, key=lambda n: n.grid[0] * n.grid[1] * n.grid[2] * n.warps * max(1, n.constants["instructions"]))
    for launch in noted:
        launch.constants["main"] = launch is main
        if launch is not main:
            launch.tensors = {}
    return noted


def _noted(call: Launch, root: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """(symbol, grid, threads of a block) of each launch in order."""
    import torch

    library = _library(root, call.name)
    function = getattr(torch.ops.aminet_fast_emulated, call.name)
    with tempfile.NamedTemporaryFile("r") as file:
        os.environ["GPUMODEL_LAUNCHES"] = file.name
        function(*_tensors(call.arguments))
        lines = file.read().splitlines()
    symbols = _symbols(library)
    found = []
    for line in lines:
        address, *numbers = line.split()
        grid, block = tuple(map(int, numbers[:3])), tuple(map(int, numbers[3:6]))
        found.append((symbols.get(int(address, 16), f"unknown_{address}"), grid, block[0] * block[1] * block[2]))
    return found


def _tensors(value: Any) -> Any:
    """Real tensors of the described kind, whose pages nobody touches."""
    import torch

    if isinstance(value, dict) and "stride" in value:
        return torch.empty_strided(value["shape"], value["stride"], dtype=getattr(torch, value["dtype"]))
    return [_tensors(member) for member in value] if isinstance(value, list) else value


@functools.cache
def _library(root: Path, name: str) -> Path:
    from cuda_harness import build

    source = max((s for s in build.sources() if name.startswith(s.stem)), key=lambda s: len(s.stem))
    return _built(source)


@functools.cache
def _built(source: Path) -> Path:
    import torch
    from cuda_harness import build

    kept = build.FLAGS, build.SANITIZERS[""]
    build.FLAGS, build.SANITIZERS[""] = [*build.FLAGS, "-O0", "-g0", "-include", str(HERE / "record.h")], []
    try:
        library = build.library(source)
    finally:
        build.FLAGS, build.SANITIZERS[""] = kept
    torch.ops.load_library(library)
    return library


@functools.cache
def _symbols(library: Path) -> dict[int, str]:
    lines = subprocess.run(["nm", str(library)], capture_output=True, text=True, check=True).stdout.splitlines()
    parts = [line.split() for line in lines]
    return {int(part[0], 16): part[2] for part in parts if len(part) == 3 and part[1] in "tTwWu"}


@functools.cache
def _codes(root: Path, folder: Path) -> dict[str, sass.Code]:
    """Every kernel for sm_90 in the built module, by symbol; none where it was not built."""
    module = root / "aminet_fast" / "_C_cuda.abi3.so"
    if not module.exists():
        _warn("aminet_fast/_C_cuda.abi3.so is not built: CUDA C++ without its machine code")
        return {}
    stat = module.stat()
    kept = folder / f"cuda-{stat.st_size}-{stat.st_mtime_ns}.json"
    if not kept.exists():
        codes = {name: sass.analyse(code) for name, code in sass.dump(module).items()}
        kept.write_text(json.dumps({name: sass.packed(code) for name, code in codes.items()}))
    return {name: sass.unpacked(data) for name, data in json.loads(kept.read_text()).items()}


@functools.cache
def _short(symbol: str) -> str:
    """ "skaf::tiles_kernel<__nv_bfloat16, 4, 1>" of a symbol."""
    text = subprocess.run(["c++filt", symbol], capture_output=True, text=True).stdout.strip() or symbol
    text = text.replace("aminet::", "").replace("__nv_bfloat16", "bf16").removeprefix("void ")
    depth = 0
    for n, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return text[:n]
    return text


def estimate(launch: Launch) -> Estimate:
    """By the machine code where that has no loops, by the table for an operator's main kernel, else by bytes alone."""
    code = launch.constants.get("code")
    if code is not None and not code.loops:
        units = unit_times(code, [], launch.grid[0] * launch.grid[1] * launch.grid[2], launch.warps, 1.0)
        bound = max(units, key=lambda unit: units[unit])
        return Estimate(GAP + max(SHORTEST, COMPILED[bound] * units[bound]), units[bound], bound, units)
    if not launch.constants.get("main", True):
        return Estimate(GAP + SHORTEST, 0.0, "gap", {})
    loops = len(code.loops) if code is not None else 0
    known = BUSIEST.get(launch.operator)
    size = re.match(r"(\d+)@(\d+)$", launch.size)
    static = launch.bytes / BANDWIDTH * 1e6
    half = any(dtype in ("bfloat16", "float16") for shape, dtype in launch.tensors.values() if len(shape) == 4)
    if known is None or size is None or not half:  # the table knows nothing of float32's kernels
        return Estimate(
            GAP + max(SHORTEST, COMPILED["not modelled"] * static), static, "not modelled", {"bytes": static}, loops
        )
    pixels, channels = _data(launch)
    at = known[0] * pixels / REFERENCE[0] * (channels / REFERENCE[1]) ** known[1]
    return Estimate(GAP + max(SHORTEST, COMPILED["table"] * at), at, "table", {"bytes": static}, loops)


def _data(launch: Launch) -> tuple[int, int]:
    """Pixels and channels of the operator's images; those of two channels are maps."""
    side = int(launch.size.split("@")[1])
    images = [shape for shape, _ in launch.tensors.values() if len(shape) == 4 and shape[2] == side]
    return images[0][0] * side * side, min([shape[1] for shape in images if shape[1] > 2], default=2)
