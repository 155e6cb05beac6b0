"""``python -m tests.harness.cuda.resources [--arch 80 90]``: what the kernels take of a GPU, by ptxas.

Registers, spills and static shared memory of every kernel, and how many blocks of it fit on a multiprocessor by its
registers and threads. Shared memory that a launch asks for is not in there: see docs/kernels/<operator>.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from dataclasses import dataclass

from tests.harness.triton.resources import blocks_that_fit

from . import nvcc
from .build import sources


@dataclass(frozen=True)
class Used:
    """By one kernel, compiled for one architecture."""

    registers: int
    spilled: int  # bytes
    shared: int  # bytes, static
    threads: int  # of a block at most, where the kernel says so; else 0


def used(made: nvcc.Compiled, architecture: int) -> dict[str, Used]:
    """Of every kernel that ptxas -v wrote about for that architecture, by name as the compiler has it."""
    found = {}
    for part in made.log.split("Compiling entry function")[1:]:
        name, registers = re.search(r"'(\S+)' for 'sm_(\d+)'", part), re.search(r"Used (\d+) registers", part)
        assert name is not None, part
        assert registers is not None, part
        if int(name[2]) != architecture:
            continue
        # Of the kernel's own line: the part may end with a warning about a kernel of the next architecture.
        spills = re.search(r"stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert spills is not None, part
        spilled = int(spills[1]) + int(spills[2])
        shared = re.search(r"(\d+) bytes smem", part)
        threads = made.threads.get(name[1], 0)
        found[name[1]] = Used(int(registers[1]), spilled, int(shared[1]) if shared else 0, threads)
    return found


def readable(names: list[str]) -> list[str]:
    """The kernels' names without namespaces and parameters: "front<half, 24>"."""
    result = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return [_short(name) for name in result.stdout.splitlines()]


def _short(name: str) -> str:
    name = name.replace("(anonymous namespace)::", "")
    for word, other in ((r"\b\w+::", ""), ("__nv_bfloat16", "bf16"), ("__half", "half"), (r"^void ", "")):
        name = re.sub(word, other, name)
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:at]
    return name


def table(found: dict[int, dict[str, Used]]) -> list[str]:
    """Markdown of one source's kernels; found: by architecture."""
    architectures = sorted(found)
    lines = ["| kernel | threads | shared |" + "".join(f" sm_{a} |" for a in architectures)]
    lines.append("|---|---|---|" + "---|" * len(architectures))
    names = sorted({name for kernels in found.values() for name in kernels})
    for short, name in sorted(zip(readable(names), names, strict=True)):
        of = [found[a].get(name) for a in architectures]
        first = next(u for u in of if u is not None)
        cells = [_cell(u, a) if u else "" for u, a in zip(of, architectures, strict=True)]
        lines.append(f"| `{short}` | {first.threads or ''} | {first.shared or ''} | {' | '.join(cells)} |")
    return lines


def _cell(u: Used, architecture: int) -> str:
    warps = -(-u.threads // 32)
    blocks = f" · {blocks_that_fit(u.registers, warps, u.shared, architecture)}" if warps else ""
    return f"{u.registers}{blocks}" + (f", **{u.spilled} spilled**" if u.spilled else "")


def report(architectures: list[int]) -> str:
    """Of all operators."""
    parts = []
    for source in sources():
        found = {a: used(nvcc.compiled(source, a, spills=True), a) for a in architectures}
        parts.append("\n".join([f"### {source.stem}", "", *table(found)]))
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--arch", nargs="+", type=int, default=list(nvcc.ARCHITECTURES))
    options = parser.parse_args(argv)
    if problem := nvcc.problem():
        raise SystemExit(problem)
    print(report(options.arch))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
