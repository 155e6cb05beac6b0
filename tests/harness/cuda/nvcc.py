"""Compiles csrc/cuda/*.cu as setup.py does, for an architecture or a generation; keeps the objects, needs no GPU.

A spilled register is an error here. An object is kept by the text of its source, of every header of csrc/ that it
includes, and of the command.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import math
import os
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS, include_paths

from tests.harness import alone

from .build import ROOT, build_plan, build_toolchain

ARCHITECTURES = tuple(int(a.replace(".", "").removesuffix("+PTX")) for a in build_plan.ARCHITECTURES.split(";"))
# Those of one generation have one PTX, but for its target's name: what takes longest is done once for them.
GENERATIONS = tuple(tuple(of) for _, of in itertools.groupby(ARCHITECTURES, lambda architecture: architecture // 10))


@dataclass(frozen=True)
class Compiled:
    """An object file, what ptxas -v said of its kernels, and most threads of a block by kernel, where it says so."""

    path: Path
    log: str
    threads: dict[str, int]


class CompileError(Exception):
    """What the compiler said."""


def problem() -> str:
    """Why nothing can be compiled here; "" where it can."""
    home = build_toolchain.toolkit()
    version = build_toolchain.toolkit_version(home) if home and Path(home, "bin", "nvcc").exists() else ""
    return build_toolchain.cuda_problem(["module.cu"], home, torch.version.cuda, version)


def _home() -> Path:
    return Path(str(build_toolchain.toolkit()))


def compiled(
    source: Path,
    architecture: int,
    *,
    also: Sequence[int] = (),
    spills: bool = False,
    flags: Sequence[str] = (),
    folder: Path | None = None,
) -> Compiled:
    """One source for one architecture (90), kept in the folder. Raises CompileError.

    also: later ones of its generation, from the same PTX; the object has code for all.
    spills: whether they are allowed.
    flags: more of them for nvcc.
    """
    command = [*_command(), "-Xptxas", "-v" if spills else "-v,-Werror", *flags]
    code = ",".join(f"sm_{each}" for each in (architecture, *also))
    command += [f"-gencode=arch=compute_{architecture},code=[{code}]"]
    text = b"".join(path.read_bytes() for path in sorted(_included(source)))
    name = hashlib.sha256(text + " ".join([*command, torch.__version__, _version()]).encode()).hexdigest()[:16]
    target = (folder or _folder()) / f"{source.stem}-sm{architecture}-{name}.o"
    facts = target.with_suffix(".json")
    with alone(target):
        if not facts.exists():
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                part = Path(folder, "part.o")
                command += ["--keep", f"--keep-dir={folder}", "-c", str(source), "-o", str(part)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode != 0:
                    lines = [
                        line
                        for line in result.stderr.splitlines()
                        if "ptxas info" not in line and "bytes stack" not in line
                    ]
                    raise CompileError("\n".join([f"{source.name} for {code}:", result.stdout, *lines]))
                threads = [_threads(path.read_text()) for path in Path(folder).glob("*.ptx")]
                part.rename(target)
            found = {"log": result.stderr, "threads": {name: n for of in threads for name, n in of.items()}}
            facts.write_text(json.dumps(found))
    return Compiled(target, **json.loads(facts.read_text()))


def ptx(source: Path, architecture: int) -> str:
    """What one source becomes before ptxas, without names of the target and of the run."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "of.ptx")
        command = [*_command(), f"-arch=compute_{architecture}", "-ptx", str(source), "-o", str(target)]
        subprocess.run(command, capture_output=True, check=True)
        text = target.read_text()
    # Names of what is internal to a source have its number in this run, and with it their length.
    text = re.sub(r"\d+_(INTERNAL|GLOBAL__N_)_[0-9a-f]{8}_\d+_(\w+?)_cu_[0-9a-f]{8}_\d+", r"\1_\2", text)
    return re.sub(rf"\bsm_{architecture}\b|SM_{architecture}0", "", text)


def _command() -> list[str]:
    """nvcc with the flags that do not depend on the architecture."""
    includes = [str(ROOT / "csrc"), *include_paths(), sysconfig.get_path("include")]
    return [
        str(_home() / "bin" / "nvcc"),
        *COMMON_NVCC_FLAGS,
        *build_plan.NVCC_FLAGS,
        *build_plan.STABLE_ABI,
        "-Xcompiler",
        "-fPIC",
        "-DPy_LIMITED_API=0x030A0000",
        *(f"-I{path}" for path in includes),
    ]


def _threads(ptx: str) -> dict[str, int]:
    """By entry: the product of .maxntid, where there is one."""
    found = {}
    for entry in re.split(r"^(?:\.visible |\.weak )?\.entry ", ptx, flags=re.MULTILINE)[1:]:
        head = entry.split("{")[0]
        if sizes := re.search(r"\.maxntid ([\d, ]+)", head):
            found[head.split("(")[0].strip()] = math.prod(int(size) for size in sizes[1].split(","))
    return found


def linked(objects: Sequence[Path], target: Path) -> None:
    """The module _C_cuda of these objects, with the libraries that setup.py's has."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    command = [os.environ.get("CXX", "g++"), "-shared", *map(str, objects), "-o", str(target)]
    command += [f"-L{Path(spec.origin).parent / 'lib'}"]
    command += [f"-L{_home() / name}" for name in ("lib64", "lib") if (_home() / name).exists()]
    command += [f"-l{name}" for name in ("c10", "torch", "torch_cpu", "cudart", "c10_cuda", "torch_cuda")]
    subprocess.run(command, check=True)


def _version() -> str:
    return build_toolchain.toolkit_version(str(_home()))


def _folder() -> Path:
    kept = os.environ.get("AMINET_NVCC_CACHE")
    return Path(kept) if kept else Path(tempfile.gettempdir()) / f"aminet-nvcc-{os.getuid()}"


def _included(source: Path, found: set[Path] | None = None) -> set[Path]:
    """The source and all files of csrc/ that it includes, directly or not."""
    found = set() if found is None else found
    if source not in found:
        found.add(source)
        for name in re.findall(r'^\s*#include "(.+)"', source.read_text(), re.MULTILINE):
            for path in (ROOT / "csrc" / name, source.parent / name):
                if path.exists():
                    _included(path, found)
    return found
