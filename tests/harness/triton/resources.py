"""What a compiled kernel takes of a GPU, read from the binary: registers, spills, shared memory, blocks that fit."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SHARED_LIMIT = {"cuda": 99 * 1024, "hip": 64 * 1024}  # of a block: sm_86 and sm_89, gfx9; some others have more
# KiB of shared memory, warps, blocks of a multiprocessor; all have 65,536 registers.
MULTIPROCESSOR = {80: (164, 64, 32), 86: (100, 48, 16), 89: (100, 48, 24), 90: (228, 64, 32), 100: (228, 64, 32)}


@dataclass(frozen=True)
class Resources:
    """Of one compiled kernel; blocks is how many fit on a multiprocessor, 0 where that is not known (AMD)."""

    registers: int
    spilled: int  # bytes
    shared: int  # bytes
    blocks: int
    limit: int = SHARED_LIMIT["cuda"]  # of shared memory


def resources(kernel: Any, arch: int | str) -> Resources:
    """Of what triton.compile gave for the architecture: 80, or "gfx942"."""
    shared, warps = kernel.metadata.shared, kernel.metadata.num_warps
    if isinstance(arch, str):
        text = kernel.asm["amdgcn"]
        registers, spilled = (
            max(map(int, re.findall(rf"\.vgpr_{what}:\s*(\d+)", text)), default=0) for what in ("count", "spill_count")
        )
        return Resources(registers, 4 * spilled, shared, 0, SHARED_LIMIT["hip"])
    registers, spilled = _registers(kernel.hash, kernel.asm["cubin"], kernel.asm["ptx"], arch)
    return Resources(registers, spilled, shared, blocks_that_fit(registers, warps, shared, arch))


def _tool(name: str) -> str:
    import triton.backends.nvidia

    return str(Path(triton.backends.nvidia.__file__).with_name("bin") / name)


_known: dict[str, tuple[int, int]] = {}


def _registers(key: str, cubin: bytes, ptx: str, arch: int) -> tuple[int, int]:
    if key not in _known:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(cubin)
            file.flush()
            usage = subprocess.run(
                [_tool("cuobjdump"), "-res-usage", file.name], text=True, capture_output=True, check=True
            )
        found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage.stdout + usage.stderr)
        assert found is not None, usage.stdout
        registers, *memory = map(int, found.groups())
        # A stack frame may hold other things than spilled registers; ptxas says which, at the price of a second run.
        _known[key] = registers, _spilled(ptx, arch) if any(memory) else 0
    return _known[key]


def _spilled(ptx: str, arch: int) -> int:
    name = f"sm_{arch}" + ("a" if arch >= 90 else "")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [_tool("ptxas-blackwell" if arch >= 100 else "ptxas"), "-v", f"--gpu-name={name}", str(source)]
        result = subprocess.run(
            [*command, "-o", str(Path(folder, "kernel.cubin"))], text=True, capture_output=True, check=True
        )
    return sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", result.stderr)))


def blocks_that_fit(registers: int, warps: int, shared: int, arch: int) -> int:
    """How many fit on a multiprocessor; registers are given out to warps by 256, and a block takes 1 KiB more."""
    kib, most_warps, most_blocks = MULTIPROCESSOR[arch]
    a_warp = -(-registers * 32 // 256) * 256
    return min(most_blocks, most_warps // warps, 65536 // a_warp // warps, kib * 1024 // (shared + 1024))


@cache
def has_backend(arch: int | str) -> bool:
    """Whether this Triton compiles for it."""
    from triton.backends import backends

    return ("amd" if isinstance(arch, str) else "nvidia") in backends
