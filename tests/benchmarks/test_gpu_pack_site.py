"""What the pack changes in another machine's Python: the keys of Triton's cache, and where the compiled module is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu_pack import unpack

MACHINE = "9.8.7"  # a Triton that nobody has


def written(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


STAND_IN = {
    "triton/__init__.py": "",
    "triton/runtime/__init__.py": "",
    "triton/runtime/cache.py": "def triton_key(): return 'a hash of libtriton.so'",
    "triton/runtime/autotuner.py": "from .cache import triton_key",
    "triton/runtime/jit.py": "class DependenciesFinder:\n    def _update_hash(self, func): print(func.known)",
    "triton/backends/__init__.py": "",
    "triton/backends/nvidia/__init__.py": "",
    "triton/backends/nvidia/compiler.py": (
        "class CUDABackend:\n"
        "    def __init__(self, target): self.target = target\n"
        "    def hash(self): return 'the version of ptxas'"
    ),
    f"triton-{MACHINE}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: triton\nVersion: {MACHINE}+local\n",
    "aminet_fast/__init__.py": "",
    "packed.py": "where = 'the pack'",
}
ASK = """
import types
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import cache, autotuner
print(cache.triton_key(), autotuner.triton_key(), CUDABackend(types.SimpleNamespace(arch=90)).hash(), sep="|")
"""


def in_stand_in(folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Python with modules that stand in for Triton and ours, and the pack's sitecustomize.py."""
    for name, text in STAND_IN.items():
        if not (folder / name).exists():
            written(folder / name, text)
    env = {name: value for name, value in os.environ.items() if not name.startswith("AMINET_PACK")}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, (unpack.SITE, folder)))} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


def test_keys_are_pinned_for_the_packs_triton_alone(tmp_path: Path) -> None:
    pinned = f"aminet-pack-{MACHINE}|aminet-pack-{MACHINE}|pinned-90\n"
    plain = "a hash of libtriton.so|a hash of libtriton.so|the version of ptxas\n"
    assert in_stand_in(tmp_path, ASK, AMINET_PACK_TRITON=MACHINE).stdout == pinned
    assert in_stand_in(tmp_path, ASK, AMINET_PACK_TRITON="9.8.6").stdout == plain
    assert in_stand_in(tmp_path, ASK).stdout == plain


def test_a_triton_whose_keys_are_made_otherwise_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "triton/runtime/cache.py", "def key_of_triton(): return ''")
    done = in_stand_in(tmp_path, ASK, AMINET_PACK_TRITON=MACHINE)
    assert f"triton.runtime.cache of Triton {MACHINE} has no triton_key" in done.stderr


CALLED = """
from triton.runtime.jit import DependenciesFinder

class Called:
    known = False

    @property
    def cache_key(self):
        self.known = True
        return "key"

DependenciesFinder()._update_hash(Called())
"""


def test_a_kernels_key_does_not_depend_on_what_was_launched_before(tmp_path: Path) -> None:
    """Triton 3.6 takes a called function's globals before its key, which is when they are found."""
    assert in_stand_in(tmp_path, CALLED).stdout == "False\n"
    assert in_stand_in(tmp_path, CALLED, AMINET_PACK_TRITON=MACHINE).stdout == "True\n"


def test_the_packed_module_is_imported(tmp_path: Path) -> None:
    code = "import aminet_fast._compiled._C_cuda as m; print(m.where)"
    more = {"AMINET_PACK_TRITON": MACHINE, "AMINET_PACK_MODULE": str(tmp_path / "packed.py")}
    assert in_stand_in(tmp_path, code, **more).stdout == "the pack\n"
    # Where this project's own was built for CUDA, an editable install offers that one.
    assert "the pack" not in in_stand_in(tmp_path, code, AMINET_PACK_TRITON=MACHINE).stdout
