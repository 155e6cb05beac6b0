"""Compiles csrc/cuda/<operator>.cu with g++ against the emulator, into a library that torch loads.

It registers aminet_fast_emulated::<operator>_<suffix> for CPU tensors. Libraries are kept by what they are made of.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "build_backend"))
import build_plan

FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-g", "-fno-omit-frame-pointer", "-shared", "-fPIC", *build_plan.STABLE_ABI]
SANITIZERS = {"": [], "address": ["-fsanitize=address,undefined"], "thread": ["-fsanitize=thread", "-Wno-tsan"]}


def cuda_headers() -> str:
    """A folder with cuda_bf16.h: the toolkit's, or one that came with torch or Triton. Raises FileNotFoundError."""
    homes = [Path(os.environ["CUDA_HOME"]) / "include"] if "CUDA_HOME" in os.environ else []
    homes.append(Path("/usr/local/cuda/include"))
    for package, folder in (("nvidia", "cu13/include"), ("triton", "backends/nvidia/include")):
        spec = importlib.util.find_spec(package)
        homes += [Path(place) / folder for place in (spec.submodule_search_locations or [])] if spec else []
    for home in homes:
        if (home / "cuda_bf16.h").exists():
            return str(home)
    raise FileNotFoundError(f"cuda_bf16.h is in none of {', '.join(map(str, homes))}")


def sources() -> list[Path]:
    """Those of the operators."""
    return sorted(path for path in (ROOT / "csrc" / "cuda").glob("*.cu") if path.stem != "module")


def library(source: Path, sanitizer: str = "", defines: Sequence[str] = ()) -> Path:
    """The compiled library of one source; defines: ["FAULT=1"]."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, *SANITIZERS[sanitizer], *(f"-D{d}" for d in defines)]
    includes = [ROOT / "csrc", ROOT / "tests" / "cuda", *include_paths(), cuda_headers()]
    command += [f"-I{path}" for path in includes]
    libraries = Path(torch.__file__).parent / "lib"
    linked = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch", "-ltorch_cpu", "-lc10"]
    # What was not compiled into it is the preprocessor's to see: it follows every include.
    text = subprocess.run([*command, "-E", "-P", str(source)], capture_output=True, check=True).stdout
    name = hashlib.sha256(text + " ".join([*command, *linked]).encode()).hexdigest()[:16]
    folder = Path(
        os.environ.get("AMINET_EMULATED_CACHE") or Path(tempfile.gettempdir()) / f"aminet-emulated-{os.getuid()}"
    )
    target = folder / f"{source.stem}-{name}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, str(source), "-o", str(part), *linked], check=True)
        part.rename(target)
    return target
