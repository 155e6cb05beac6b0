"""What to compile, with what, and why not: the build's decisions, apart from setuptools and so testable."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TORCH_REQUIREMENT = "torch>=2.11"
OLDEST_TORCH = (2, 11)
REQUESTS = ("auto", "none", "cpu", "cuda")
ROOT = Path(__file__).resolve().parent.parent
# The oldest torch to run on (2.11): one binary serves it and every later one.
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020b000000000000"]
_WARNINGS = ["-Wall", "-Wextra", "-Wno-unused-parameter"]
CXX_FLAGS = ["-O3", "-std=c++20", "-fvisibility=hidden", "-fopenmp-simd", *_WARNINGS]
# Registers that spill are an error in tests (tests/test_cuda_build.py); another nvcc's may not end a user's install.
NVCC_FLAGS = ["-O3", "-std=c++20", "-DUSE_CUDA", "-Xptxas", "-warn-spills", "-Xcompiler", "-fvisibility=hidden"]
# Where TORCH_CUDA_ARCH_LIST does not say: from A100 to B200, and for what comes later the last one's PTX.
ARCHITECTURES = "8.0;8.6;8.9;9.0;10.0+PTX"
_TOO_OLD = re.compile(r"[1-7]\.|kepler|maxwell|pascal|volta|turing", re.IGNORECASE)
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


class BuildError(Exception):
    """A request that cannot be met; the message is one line that ends in the remedy."""


@dataclass(frozen=True)
class Plan:
    """Which modules to compile, and what to tell the user about those that are not."""

    cpu: bool
    cuda: bool
    notes: tuple[str, ...] = ()


def requested(environ: dict[str, str] | os._Environ[str] = os.environ) -> str:
    """AMINET_FAST_BUILD, checked. Raises BuildError for an unknown value."""
    request = environ.get("AMINET_FAST_BUILD", "auto").strip().lower() or "auto"
    if request not in REQUESTS:
        raise BuildError(f"AMINET_FAST_BUILD={request!r} is unknown: use one of {', '.join(REQUESTS)}")
    return request


def decide(request: str, compiler_problem: str, cuda_problem: str) -> Plan:
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
    return Plan(True, True)


def compiler_command(environ: dict[str, str] | os._Environ[str] = os.environ) -> list[str] | None:
    """The C++ compiler: CXX, else the first of c++, g++, clang++ on PATH."""
    if environ.get("CXX"):
        return shlex.split(environ["CXX"])
    found = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    return [found] if found else None


def compiler_problem(command: list[str] | None) -> str:
    """Why `command` cannot compile a Python extension in C++20; "" when it can."""
    if platform.system() == "Windows":
        return "compiling is supported on Linux and macOS only; use WSL, or AMINET_FAST_BUILD=none"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "free-threaded Python has no stable ABI, which the extensions use; take the usual build of Python"
    if command is None:
        return "no C++ compiler found; install g++ (Debian: apt-get install g++) or set CXX"
    include = sysconfig.get_path("include")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text("#include <Python.h>\n#include <span>\nint probe() { return std::span<int>().size(); }\n")
        arguments = [
            *command,
            "-std=c++20",
            f"-I{include}",
            "-c",
            str(source),
            "-o",
            str(Path(folder, "probe.o")),
        ]
        try:
            result = subprocess.run(arguments, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"the C++ compiler {command[0]!r} does not start ({error.strerror}); set CXX to one that does"
    if result.returncode == 0:
        return ""
    if "Python.h" in result.stderr:
        return f"Python.h is not in {include}; install Python's headers (Debian: apt-get install python3-dev)"
    return f"{shlex.join(command)} cannot compile C++20; install g++ 10 or newer, or set CXX to it"


def compiler_version() -> str:
    """The compiler's own first line about itself."""
    command = compiler_command() or ["c++"]
    result = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    return result.stdout.splitlines()[0] if result.stdout else shlex.join(command)


def toolkit(environ: dict[str, str] | os._Environ[str] = os.environ) -> str | None:
    """The folder of the CUDA toolkit: CUDA_HOME, else of the nvcc on PATH, else /usr/local/cuda.

    Not what torch finds: an nvcc on PATH may be a script that starts another one, and its folder has no libraries.
    """
    if environ.get("CUDA_HOME"):
        return environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc", path=environ.get("PATH"))
    homes = [Path(nvcc).resolve().parents[1]] if nvcc else []
    return next((str(home) for home in [*homes, Path("/usr/local/cuda")] if _complete(home)), None)


def _complete(home: Path) -> bool:
    return (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists()


def toolkit_version(home: str) -> str:
    """ "13.0", as its nvcc says; "" where that says nothing."""
    command = [str(Path(home, "bin", "nvcc")), "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    match = re.search(r"release (\d+\.\d+)", result.stdout)
    return match[1] if match else ""


def nvcc_threads(files: int, jobs: int) -> list[str]:
    """The flag that has a compiler work on several architectures at once, where there are more jobs than files."""
    threads = jobs // max(files, 1)
    return [f"--threads={threads}"] if threads > 1 else []


def cuda_problem(
    sources: list[str], toolkit: str | None, torch_cuda: str | None, version: str = "", architectures: str = ""
) -> str:
    """Why the CUDA extension cannot be compiled; "" when it can. version: of the toolkit, where it is known."""
    if not sources:
        return "this version has no CUDA kernels to compile; use AMINET_FAST_BUILD=cpu or auto"
    if torch_cuda is None:
        return "the installed torch is a CPU build without CUDA libraries; install a CUDA build of torch"
    if old := [name for name in re.split(r"[ ;,]+", architectures) if _TOO_OLD.match(name)]:
        return f"TORCH_CUDA_ARCH_LIST has {', '.join(old)}, and the kernels need 8.0 or newer; take that out"
    if not toolkit or not Path(toolkit, "bin", "nvcc").exists():
        return "nvcc was not found; install the CUDA toolkit and set CUDA_HOME to its folder"
    if not _complete(Path(toolkit)):
        return f"the CUDA toolkit in {toolkit} has no include/cuda_runtime.h; set CUDA_HOME to a whole one"
    if version and version.split(".")[0] != torch_cuda.split(".")[0]:
        wanted = torch_cuda.split(".")[0]
        return f"nvcc is of CUDA {version} and torch of {torch_cuda}; set CUDA_HOME to a toolkit of CUDA {wanted}"
    return ""


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

    home = toolkit()
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    problem = cuda_problem(cuda_sources, home, torch.version.cuda, "", asked)
    if home and not problem:
        problem = cuda_problem(cuda_sources, home, torch.version.cuda, toolkit_version(home))
        os.environ["CUDA_HOME"] = home  # before torch.utils.cpp_extension is imported, which looks for it on its own
    return decide(request, "", problem)
