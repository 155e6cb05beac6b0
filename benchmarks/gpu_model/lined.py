"""SASS with the lines that it was made of: what nvcc -lineinfo leaves in a cubin, by nvdisasm.

A place is a chain of (file, line), the innermost first: where an inlined function's line is, where that was called, and
so on. Only lines of the kernels' own files count: a helper that moves one value (HELPERS) is not a place.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import ROOT, sass

KERNELS = ROOT / "csrc" / "cuda"
HELPERS = ("device.h", "mma.h", "async.h")  # lines differ between the two compilers' halves of these
SECTION = re.compile(r"^\s*\.section\s+\.text\.([^,\s]+)")
FRAME = re.compile(r'//## File "([^"]+)", line (\d+)( inlined at)?')
LABEL = re.compile(r"^(\.L_\S+):")
TARGET = re.compile(r"`\((\.L_[^)]+)\)")
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
Place = tuple[tuple[str, int], ...]


@dataclass
class Instruction:
    text: str
    place: Place
    labels: list[str]  # that name it
    target: str = ""  # of a branch

    @property
    def guarded(self) -> bool:
        return self.text.startswith("@")


def place(frames: Iterable[tuple[str, int]], files: frozenset[str]) -> Place:
    """Of (path, line), the innermost first."""
    named = ((Path(path).name, line) for path, line in frames)
    return tuple(frame for frame in named if frame[0] in files and frame[0] not in HELPERS)


def kernel_files() -> frozenset[str]:
    return frozenset(path.name for path in KERNELS.iterdir())


def parsed(lines: Iterable[str], files: frozenset[str]) -> dict[str, list[Instruction]]:
    """The functions of nvdisasm -c -gi, by symbol."""
    functions: dict[str, list[Instruction]] = {}
    code: list[Instruction] = []
    frames: list[tuple[str, int]] = []
    here: Place = ()
    labels: list[str] = []
    closed = True
    for line in lines:
        if found := FRAME.search(line):
            frames = [] if closed else frames
            frames.append((found[1], int(found[2])))
            closed = not found[3]
            if closed:
                here = place(frames, files)
        elif found := SECTION.match(line):
            code = functions.setdefault(found[1], [])
            here, labels, closed = (), [], True
        elif found := LABEL.match(line):
            labels.append(found[1])
        elif found := INSTRUCTION.match(line):
            target = TARGET.search(found[2])
            code.append(Instruction(found[2], here, labels, target[1] if target else ""))
            labels = []
    return {name: code for name, code in functions.items() if code}


def read(made: Path) -> dict[str, list[Instruction]]:
    """Of an object file of nvcc's, kept beside it as JSON."""
    kept = made.with_suffix(".lines.json")
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            command = [sass.tool("cuobjdump"), "-xelf", "all", str(made.resolve())]
            subprocess.run(command, cwd=folder, check=True, capture_output=True)
            functions: dict[str, list[Instruction]] = {}
            for cubin in Path(folder).glob("*.cubin"):
                command = [sass.tool("nvdisasm"), "-c", "-gi", str(cubin)]
                text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                functions |= parsed(text.splitlines(), kernel_files())
        kept.write_text(json.dumps({name: _packed(code) for name, code in functions.items()}))
    return {name: _unpacked(data) for name, data in json.loads(kept.read_text()).items()}


def _packed(code: list[Instruction]) -> dict[str, list]:
    places = list(dict.fromkeys(i.place for i in code))
    number = {place: n for n, place in enumerate(places)}
    return {"places": places, "code": [[i.text, number[i.place], i.labels, i.target] for i in code]}


def _unpacked(data: dict[str, list]) -> list[Instruction]:
    places = [tuple((file, line) for file, line in place) for place in data["places"]]
    return [Instruction(text, places[n], labels, target) for text, n, labels, target in data["code"]]
