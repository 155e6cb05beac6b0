"""The C modules that pass a kernel's arguments to the CUDA driver, compiled for a Python that is not this one.

Triton compiles one for each kind of signature, and one of its own, at the first launch: a second each on a GPU machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cache import folder_of

LAUNCHER, UTILS = "__triton_launcher", "cuda_utils"
STUB = "void aminet_stub(void) {}\n"  # a libcuda.so.1 to link with: the driver's own comes with a GPU


@dataclass(frozen=True)
class Target:
    """A Python with headers: the ending of its modules, and where the headers are."""

    python: str
    suffix: str
    include: str


def source_of(src: Any, metadata: dict[str, Any]) -> str:
    """The C source that triton.backends.nvidia.driver.CudaLauncher makes; "" for a Triton that makes none."""
    from triton.backends.nvidia import driver

    if not hasattr(driver, "make_launcher"):
        return ""

    def place(name: Any) -> Any:
        return (src.fn.arg_names.index(name),) if isinstance(name, str) else name

    constants = {place(name): value for name, value in getattr(src, "constants", {}).items()}
    return str(driver.make_launcher(constants, dict(src.signature), metadata.get("tensordesc_meta")))


def utils_source() -> str:
    """Of the module that loads kernels."""
    from triton.backends.nvidia import driver

    return Path(driver.__file__).with_name("driver.c").read_text()


def key_of(source: str) -> str:
    """Under which Triton's cache has a module compiled from C."""
    from triton.runtime.build import platform_key

    return hashlib.sha256((source + platform_key()).encode()).hexdigest()


def find_python(version: str) -> str | None:
    """A Python of that version ("3.12"), by its name or of pyenv; None where there is none that starts."""
    named = shutil.which(f"python{version}")
    folder = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    others = sorted(folder.glob(f"{version}.*/bin/python"), key=_numbers, reverse=True)
    for python in [*([named] if named else []), *map(str, others)]:
        check = f"import sys; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
        if subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0:
            return python
    return None


def _numbers(path: Path) -> list[int]:
    return list(map(int, re.findall(r"\d+", path.parts[-3])))


def target_of(version: str) -> tuple[Target | None, str]:
    """(a Python to compile for, ""), or (None, why there is none)."""
    if (python := find_python(version)) is None:
        return None, f"no Python {version} is here, by the name python{version} or in pyenv"
    ask = "import sysconfig as s; print(s.get_config_var('EXT_SUFFIX'), s.get_paths()['include'], sep='\\n')"
    suffix, include = subprocess.check_output([python, "-c", ask], text=True).splitlines()
    if not Path(include, "Python.h").exists():
        return None, f"{python} has no headers: {include}/Python.h is not there"
    return Target(python, suffix, include), ""


def compile_all(sources: Sequence[Path], cache: Path, build: Path, target: Target, jobs: int) -> int:
    """Into the folders where Triton looks for them; how many. sources: one file a launcher, named by its key."""
    utils = build / "cuda_utils.c"
    utils.write_text(utils_source())
    todo = [(path.stem, path, LAUNCHER) for path in sources] + [(key_of(utils.read_text()), utils, UTILS)]
    stub = build / "stub"
    stub.mkdir(exist_ok=True)
    (stub / "stub.c").write_text(STUB)
    compiler = os.environ.get("CC", "gcc")
    shared = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(stub / "libcuda.so.1")]
    subprocess.run([compiler, str(stub / "stub.c"), *shared], check=True)

    def make(job: tuple[str, Path, str]) -> None:
        key, source, name = job
        folder = cache / folder_of(key)
        folder.mkdir(parents=True, exist_ok=True)
        command = [compiler, str(source), "-O3", "-shared", "-fPIC", "-Wno-psabi", "-s"]
        command += ["-o", str(folder / f"{name}{target.suffix}")]
        command += ["-l:libcuda.so.1", f"-L{stub}", f"-I{headers()}", f"-I{target.include}"]
        subprocess.run(command, check=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(make, todo))
    return len(todo)


def headers() -> Path:
    """Triton's copy of CUDA's."""
    from triton.backends.nvidia import driver

    return Path(driver.__file__).with_name("include")
