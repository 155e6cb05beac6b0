"""``make sanitize``: the CPU kernels under sanitizers, over the operators' own tests.

Builds the package into build/sanitize-<kind> with the sanitizer's flags, and runs there every test file of an operator
that has compiled kernels. ``address`` is AddressSanitizer with UndefinedBehaviorSanitizer; ``thread`` is
ThreadSanitizer, with threads that it can follow in place of OpenMP's (csrc/cpu/parallel.h). Needs g++ and its sanitizer
libraries.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.harness import ROOT

FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1",
    "thread": "-fsanitize=thread -DAMINET_STD_THREADS -fno-omit-frame-pointer -g1",
}
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = {
    # torch keeps what it allocates; only wrong accesses count here.
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0:halt_on_error=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    # torch and Python are not instrumented: what they synchronise is not seen, so their accesses are not judged.
    "TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66",
}


def build(kind: str) -> Path:
    """Compile into a tree of its own; its path."""
    base = ROOT / "build" / f"sanitize-{kind}"
    environ = os.environ | {"CFLAGS": FLAGS[kind], "LDFLAGS": FLAGS[kind], "AMINET_FAST_BUILD": "cpu"}
    environ.setdefault("AMINET_FAST_ONLY_CAPABILITY", _capability())
    command = [sys.executable, "setup.py", "-q", "build", f"--build-base={base}", f"--build-lib={base / 'lib'}"]
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise SystemExit(result.stdout[-4000:] + result.stderr[-4000:])
    return base / "lib"


def environment(kind: str) -> dict[str, str]:
    """What a process needs to load what was compiled with these flags."""
    return OPTIONS | {"LD_PRELOAD": " ".join(_library(name) for name in LIBRARIES[kind])}


def run(kind: str, library: Path, pytest_arguments: list[str]) -> int:
    """The operators' tests against that tree; pytest's exit status, or the sanitizer's."""
    environ = os.environ | environment(kind) | {"PYTHONPATH": str(library)}
    tests = sorted({str(path) for name in _operators(library) for path in ROOT.glob(f"tests/ops/test_{name}*.py")})
    # Imported before pytest puts the checkout first on sys.path, which would hide the instrumented tree.
    start = (
        "import sys, pytest; sys.path[:] = [p for p in sys.path if p]; import aminet_fast.ops\n"
        f"assert aminet_fast.__file__.startswith({str(library)!r}), aminet_fast.__file__\n"
        "raise SystemExit(pytest.main(sys.argv[1:]))"
    )
    # Reports go to stderr itself, past Python.
    # Compiling for torch.compile starts compilers, which need no sanitizer, and says nothing of the kernels.
    chosen = pytest_arguments or ["-q", "-x", "-m", "not slow", "-k", "not compile and not export"]
    command = [sys.executable, "-c", start, "--capture=sys", "-p", "no:cacheprovider", *chosen, *tests]
    return subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode


def _capability() -> str:
    """The copy of the kernels that this machine runs."""
    cpu = torch.backends.cpu.get_cpu_capability()
    return {"AVX512": "avx512", "AVX2": "avx2"}.get(cpu, "portable")


def _operators(library: Path) -> list[str]:
    sources = (ROOT / "csrc" / "cpu").glob("*.cpp")
    return sorted(
        path.stem for path in sources if (library / "aminet_fast" / "ops" / path.name).with_suffix(".py").exists()
    )


def _library(name: str) -> str:
    """Where the compiler keeps a sanitizer's library."""
    compiler = os.environ.get("CXX", "g++")
    found = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        raise SystemExit(f"{compiler} has no {name}; install it (Debian: apt-get install libasan8 libubsan1 libtsan2)")
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.harness.sanitize", description=__doc__)
    parser.add_argument("kind", choices=FLAGS)
    parser.add_argument("pytest", nargs="*", help="arguments for pytest in place of the usual ones, after --")
    options = parser.parse_args(argv)
    return run(options.kind, build(options.kind), options.pytest)


if __name__ == "__main__":
    raise SystemExit(main())
