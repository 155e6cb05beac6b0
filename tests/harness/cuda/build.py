"""Compiles csrc/cuda/<operator>.cu with g++ against the emulator, into a library that torch loads.

It registers aminet_fast_emulated::<operator>_<suffix> for CPU tensors. Libraries are kept by what they are made of.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

from tests.harness import ROOT, alone, sanitize

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "build_backend"))
import build_plan  # noqa: E402
import build_toolchain  # noqa: E402, F401 (for nvcc.py)

FLAGS = ["-x", "c++", "-std=c++20", "-O1", "-g1", "-fno-omit-frame-pointer", "-shared", "-fPIC", *build_plan.STABLE_ABI]
# Each library has an emulator of its own, also where several are in one process.
FLAGS += ["-fvisibility=hidden", "-fno-gnu-unique", "-Wno-tsan"]
# Without a sanitizer too: vectors at addresses that a GPU refuses, and indices past an array's end.
CHECKED = ["-fsanitize=alignment,bounds", "-fno-sanitize-recover=undefined"]
SANITIZERS = {"": CHECKED, **{kind: flags.split() for kind, flags in sanitize.FLAGS.items()}}


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


def problem() -> str:
    """Why nothing can be compiled here against the emulator, "" if it can."""
    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "there is no C++ compiler"
    try:
        cuda_headers()
    except FileNotFoundError as error:
        return str(error)
    return ""


def sources() -> list[Path]:
    """Those of the operators."""
    return sorted(path for path in (ROOT / "csrc" / "cuda").glob("*.cu") if path.stem != "module")


def library(source: Path, sanitizer: str = "", defines: Sequence[str] = ()) -> Path:
    """The compiled library of one source; defines: ["FAULT=1"]."""
    command = [os.environ.get("CXX", "g++"), *FLAGS, *SANITIZERS[sanitizer], *(f"-D{d}" for d in defines)]
    includes = [ROOT / "csrc", HERE, *include_paths(), cuda_headers()]
    command += [f"-I{path}" for path in includes]
    libraries = Path(torch.__file__).parent / "lib"
    linked = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch", "-ltorch_cpu", "-lc10"]
    environ = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # a sanitizer's, see below
    # What was not compiled into it is the preprocessor's to see: it follows every include.
    text = subprocess.run([*command, "-E", "-P", str(source)], env=environ, capture_output=True, check=True).stdout
    name = hashlib.sha256(text + " ".join([*command, *linked]).encode()).hexdigest()[:16]
    folder = Path(
        os.environ.get("AMINET_EMULATED_CACHE") or Path(tempfile.gettempdir()) / f"aminet-emulated-{os.getuid()}"
    )
    target = folder / f"{source.stem}-{name}.so"
    with alone(target):
        if not target.exists():
            part = target.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, str(source), "-o", str(part), *linked], env=environ, check=True)
            part.rename(target)
    return target


def sanitized_library(source: Path, sanitizer: str, defines: Sequence[str] = ()) -> Path:
    """`library`; this very command starts once more if a sanitizer has to be in the process from its beginning."""
    target = library(source, sanitizer, defines)
    if sanitizer:
        environ = sanitize.environment(sanitizer)
        if os.environ.get("LD_PRELOAD") != environ["LD_PRELOAD"]:
            # ThreadSanitizer needs addresses where it expects them.
            prefix = ["setarch", "-R"] if sanitizer == "thread" else []
            command = [*prefix, sys.executable, *sys.orig_argv[1:]]
            sys.stdout.flush()
            os.execvpe(command[0], command, os.environ | environ)
    return target
