"""A hash of the code of an operator's kernels: its file and all of ours that this names, one after the other.

Standard library only: setup.py runs this file, to note what it compiled.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

# What a kernel file takes along: `from ._common import cdiv`, `#include "cuda/device.h"`.
_NAMED = {
    ".py": re.compile(r"^\s*from \.(\w+) import", re.MULTILINE),
    "C++": re.compile(r'^\s*#include "([\w./]+)"', re.MULTILINE),
}
_COMMENTS = {".py": "#", "C++": "//"}
LENGTH = 16


def digest(first: Path, root: Path) -> str:
    """Of `first` and of the files under `root` that it names, directly or not; "" where there is no such file.

    Lines with nothing but a comment do not count.
    """
    if not first.is_file():
        return ""
    python = first.suffix == ".py"
    kind = ".py" if python else "C++"
    waiting, texts = [first], {}
    while waiting:
        path = waiting.pop()
        if path in texts or not path.is_file():
            continue
        texts[path] = path.read_text(encoding="utf-8")
        named = _NAMED[kind].findall(texts[path])
        waiting += [root / f"{name}.py" if python else root / name for name in named]
    sha = hashlib.sha256()
    for path in sorted(texts, key=lambda path: path.name):
        lines = (line.rstrip() for line in texts[path].splitlines())
        code = [line for line in lines if line and not line.lstrip().startswith(_COMMENTS[kind])]
        sha.update("\n".join([path.name, *code, ""]).encode())
    return sha.hexdigest()[:LENGTH]


def of_triton(operator: str, kernels: Path) -> str:
    """Of kernels/<operator>.py."""
    return digest(kernels / f"{operator}.py", kernels)


def of_cuda(operator: str, csrc: Path) -> str:
    """Of csrc/cuda/<operator>.cu."""
    return digest(csrc / "cuda" / f"{operator}.cu", csrc)


def all_of_cuda(csrc: Path) -> dict[str, str]:
    """By operator."""
    return {path.stem: of_cuda(path.stem, csrc) for path in sorted((csrc / "cuda").glob("*.cu"))}
