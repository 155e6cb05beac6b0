"""What to compile, with what, and why not: the build's decisions, apart from setuptools and so testable."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from build_toolchain import compiler_command, compiler_problem, cuda_problem, toolkit, toolkit_version

TORCH_REQUIREMENT = "torch>=2.11"
OLDEST_TORCH = (2, 11)
REQUESTS = ("auto", "none", "cpu", "cuda")
ROOT = Path(__file__).resolve().parent.parent
# The oldest torch to run on (2.11): one binary serves it and every later one.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
_WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"]
CXX_FLAGS = ["-O3", "-std=c++20", "-fvisibility=hidden", "-fopenmp-simd", *_WARNINGS]
# Registers that spill are an error in tests (tests/csrc/test_nvcc.py); another nvcc's may not end a user's install.
NVCC_FLAGS = ["-O3", "-std=c++20", "-DUSE_CUDA", "-Xptxas", "-warn-spills", "-Xcompiler", "-fvisibility=hidden"]
# Of AMINET_FAST_BUILD=cuda: from A100 to B200, and for what comes later the last one's PTX.
ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0+PTX"
# Flags of each copy of csrc/cpu/kernels; csrc/cpu/capability.h picks the copy when the library runs.
CAPABILITIES: dict[str, list[str]] = {"portable": []}
if platform.machine() in ("x86_64", "AMD64"):
    _AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    _AVX512 = [*_AVX2, *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq")), "-mprefer-vector-width=512"]
    CAPABILITIES |= {"avx2": _AVX2, "avx512": _AVX512}
# Only one copy, for this machine alone: what sanitizers take many times as long to compile.
if _ONLY := os.environ.get("AMINET_FAST_ONLY_CAPABILITY", ""):
    if _ONLY not in CAPABILITIES:
        raise ValueError(f"AMINET_FAST_ONLY_CAPABILITY={_ONLY!r} is unknown: use one of {', '.join(CAPABILITIES)}")
    CAPABILITIES = {_ONLY: CAPABILITIES[_ONLY]}
    CXX_FLAGS.append(f"-DAMINET_ONLY_CAPABILITY={_ONLY}")


OLDEST_GPU = (8, 0)


class BuildError(Exception):
    """A request that cannot be met; the message is one line that ends in the remedy."""


@dataclass(frozen=True)
class Plan:
    """Which modules to compile, and what to tell the user about those that are not."""

    cpu: bool
    cuda: bool
    notes: tuple[str, ...] = ()
    architectures: str = ""  # of the CUDA extension, as TORCH_CUDA_ARCH_LIST has them


def requested(environ: dict[str, str] | os._Environ[str] = os.environ) -> str:
    """AMINET_FAST_BUILD, checked. Raises BuildError for an unknown value."""
    request = environ.get("AMINET_FAST_BUILD", "auto").strip().lower() or "auto"
    if request not in REQUESTS:
        raise BuildError(f"AMINET_FAST_BUILD={request!r} is unknown: use one of {', '.join(REQUESTS)}")
    return request


def decide(request: str, compiler_problem: str, cuda_problem: str, architectures: str = ARCHITECTURES) -> Plan:
    """Turn the request and what stands in its way ("" when nothing does) into a plan.

    ``cpu`` and ``cuda`` are orders: what stands in their way is a BuildError. ``auto`` takes what it can get.
    """
    if request == "none":
        return Plan(False, False, ("nothing compiled: AMINET_FAST_BUILD=none",))
    if compiler_problem:
        if request != "auto":
            raise BuildError(f"AMINET_FAST_BUILD={request} cannot be met: {compiler_problem}")
        return Plan(False, False, (f"CPU extension not compiled: {compiler_problem}",))
    if request == "cuda" and cuda_problem:
        raise BuildError(f"AMINET_FAST_BUILD=cuda cannot be met: {cuda_problem}")
    if request == "cpu":
        return Plan(True, False, ("CUDA extension not compiled: AMINET_FAST_BUILD=cpu",))
    if cuda_problem:
        return Plan(True, False, (f"CUDA extension not compiled: {cuda_problem}",))
    return Plan(True, True, (), architectures)


def nvcc_threads(files: int, jobs: int) -> list[str]:
    """The flag that has a compiler work on several architectures at once, where there are more jobs than files."""
    threads = jobs // max(files, 1)
    return [f"--threads={threads}"] if threads > 1 else []


_FIND_TORCH = """
import importlib.metadata as metadata, importlib.util as util, json, sys
spec = util.find_spec("torch")
version = None
if spec is not None:
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        import torch
        version = str(torch.__version__)
print(json.dumps({"version": version, "path": [p for p in sys.path if p]}))
"""


def target_environment() -> tuple[str | None, list[str]]:
    """(version of torch or None, sys.path) of the environment that pip installs into.

    pip runs the build with that environment's own interpreter and isolates it by PYTHONPATH alone (a
    sitecustomize there drops the site-packages folders), so the same interpreter without these variables
    sees the environment as its user does: a venv with or without system site-packages, a user site, .pth
    files, Debian's dist-packages. Under uv and `python -m build` the interpreter belongs to the temporary
    environment, and so finds no torch.
    """
    hidden = ("PYTHONPATH", "PYTHONNOUSERSITE", "PYTHONSAFEPATH")
    environ = {name: value for name, value in os.environ.items() if name not in hidden}
    # The working directory holds no modules, so that nothing of the source tree is taken for a package.
    result = subprocess.run(
        [sys.executable, "-c", _FIND_TORCH],
        env=environ,
        cwd=ROOT / "csrc",
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        return None, []
    answer = json.loads(result.stdout.splitlines()[-1])
    return answer["version"], answer["path"]


def usable(torch_version: str | None) -> bool:
    """Whether that torch is new enough; an older one is replaced by the install anyway."""
    match = re.match(r"(\d+)\.(\d+)", torch_version or "")
    return match is not None and (int(match[1]), int(match[2])) >= OLDEST_TORCH


def build_requirements(
    environment: Callable[[], tuple[str | None, list[str]]] = target_environment,
    problem: Callable[[], str] = lambda: compiler_problem(compiler_command()),
) -> list[str]:
    """Requirements beside setuptools: none where nothing is compiled, torch only where it is missing."""
    request = requested()
    if request == "none":
        return []
    if stands_in_the_way := problem():
        decide(request, stands_in_the_way, "")
        return []
    return ["ninja"] if usable(environment()[0]) else ["ninja", TORCH_REQUIREMENT]


def reach_torch() -> None:
    """Make torch importable: as it is, else from the target environment, behind all that is on sys.path."""
    try:
        import torch
    except ModuleNotFoundError as error:
        version, paths = target_environment()
        if not usable(version):
            raise BuildError(
                f"torch is needed to compile and {version or 'none'} is installed; "
                f"pip install '{TORCH_REQUIREMENT}' first, or leave out --no-build-isolation"
            ) from error
        sys.path.extend(path for path in paths if path not in sys.path)
    else:
        if not usable(str(torch.__version__)):
            raise BuildError(
                f"torch is needed to compile and {torch.__version__} is installed; "
                f"pip install '{TORCH_REQUIREMENT}' first, or leave out --no-build-isolation"
            )


def for_gpus(capabilities: list[tuple[int, int]]) -> tuple[str, str]:
    """(the architectures to compile for, "" or why there is none) of the GPUs that are here."""
    elsewhere = "TORCH_CUDA_ARCH_LIST='8.0;9.0' compiles for such GPUs elsewhere, AMINET_FAST_BUILD=cuda for all"
    if not capabilities:
        return "", f"no GPU is here; {elsewhere}"
    names = {capability: "{}.{}".format(*capability) for capability in sorted(capabilities)}
    if not (new := [name for capability, name in names.items() if capability >= OLDEST_GPU]):
        return "", f"the GPUs here are of {', '.join(names.values())}, and the kernels need 8.0 or newer; {elsewhere}"
    return ";".join(new), ""


def make_plan(cuda_sources: list[str]) -> Plan:
    """What to compile here. Raises BuildError where the request cannot be met."""
    request, command = requested(), compiler_command()
    if request == "none":
        return decide(request, "", "")
    if problem := compiler_problem(command):
        return decide(request, problem, "")
    # torch's build tools and setuptools must use the compiler that was probed.
    os.environ.setdefault("CXX", shlex.join(command or []))
    reach_torch()
    import torch

    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    architectures = asked or ARCHITECTURES
    if request == "auto" and not asked and torch.version.cuda is not None:
        present = torch.cuda.device_count() if torch.cuda.is_available() else 0
        architectures, problem = for_gpus([torch.cuda.get_device_capability(index) for index in range(present)])
        if problem:
            return decide(request, "", problem)
    home = toolkit()
    problem = cuda_problem(cuda_sources, home, torch.version.cuda, "", architectures)
    if home and not problem:
        problem = cuda_problem(cuda_sources, home, torch.version.cuda, toolkit_version(home))
        os.environ["CUDA_HOME"] = home  # before torch.utils.cpp_extension is imported, which looks for it on its own
    return decide(request, "", problem, architectures)
