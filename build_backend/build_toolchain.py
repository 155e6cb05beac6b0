"""The compilers that are here, and in one line what keeps them from compiling the extensions."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

_TOO_OLD = re.compile(r"[1-7]\.|kepler|maxwell|pascal|volta|turing", re.IGNORECASE)


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
