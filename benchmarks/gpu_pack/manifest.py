"""What a pack was made of, and whether it is of use: for the tree as it is, the Triton and the GPU that are here.

Standard library only: it is asked before anything else is imported.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import subprocess
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any

NAME, ARCHIVE, MODULE = "manifest.json", "pack.tar.xz", "_C_cuda.abi3.so"
# What compiled kernels depend on. A line that moves in kernels/ counts: line numbers are in Triton's keys.
KERNELS = ("kernels/**/*.py", "benchmarks/gpu_pack/site/*.py")
COMPILED = ("csrc/cuda/*", "csrc/common/*", "csrc/*.h")
# What decides which kernels are launched: a change of it may ask for one that was not packed.
CALLERS = (
    "aminet_fast/**/*.py",
    "aminet_fast/ops/*.json",
    "tests/harness/triton/*.py",
    "benchmarks/sanitizer_target.py",
)
NAMED = 5


def hashes(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """sha256 of every file that fits, by its path in the tree."""
    paths = sorted({path for pattern in patterns for path in root.glob(pattern) if path.is_file()})
    return {path.relative_to(root).as_posix(): digest(path) for path in paths}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sources(root: Path, cuda: bool) -> dict[str, dict[str, str]]:
    """Of a pack: what its kernels and, with `cuda`, its compiled module are made of, and what launches them."""
    kept = KERNELS + COMPILED if cuda else KERNELS
    return {"sources": hashes(root, kept), "callers": hashes(root, CALLERS)}


def write(pack: Path, about: dict[str, Any]) -> None:
    """The manifest of the archive that lies in the folder. about: has `sources` and `callers`."""
    archive = pack / ARCHIVE
    about = about | {"archive": digest(archive), "bytes": archive.stat().st_size}
    (pack / NAME).write_text(json.dumps(about, indent=1) + "\n")


def read(pack: Path) -> dict[str, Any]:
    """FileNotFoundError without a pack, ValueError for what is no manifest."""
    found = json.loads((pack / NAME).read_text())
    if not isinstance(found, dict) or not {"sources", "callers", "archive", "triton", "arch"} <= found.keys():
        raise ValueError(f"{pack / NAME} is no manifest of a pack")
    return found


def changed(made: dict[str, str], now: dict[str, str]) -> list[str]:
    """Files that are not as they were, gone or new."""
    return sorted(name for name in made.keys() | now.keys() if made.get(name) != now.get(name))


def stale(root: Path, pack: Path) -> list[str]:
    """Of the sources of the pack's kernels, those that are other than they were."""
    made = read(pack)
    return changed(made["sources"], sources(root, made.get("cuda", True))["sources"])


def state(root: Path, pack_folder: Path) -> tuple[bool, str]:
    """(whether there is a pack that this tree can run from here, why or why not, in words)."""
    root, pack = Path(root), Path(pack_folder)
    try:
        made = read(pack)
        whole = digest(pack / ARCHIVE) == made["archive"]
    except FileNotFoundError:
        return False, f"there is no pack in {pack}; make gpu-pack makes one"
    except (OSError, ValueError) as error:
        return False, f"the pack in {pack} cannot be read: {error}"
    if not whole:
        return False, f"{pack / ARCHIVE} is not what the manifest describes; make gpu-pack makes it again"
    if (here := triton_version()) != made["triton"]:
        return False, f"the pack is for Triton {made['triton']}, and here is {here or 'none'}"
    if (gpu := capability()) not in ("", str(made["arch"])):
        return False, f"the pack is for GPUs of sm_{made['arch']}, and here is one of sm_{gpu}"
    now = sources(root, made.get("cuda", True))
    if names := changed(made["sources"], now["sources"]):
        return False, f"the tree has other sources than the pack was made of ({_named(names)}); make gpu-pack again"
    notes = [f"{made['kernels']} kernels for sm_{made['arch']} and Triton {made['triton']}, of these very sources"]
    if names := changed(made["callers"], now["callers"]):
        notes.append(f"what launches them has changed ({_named(names)}), so some may be missing")
    if made.get("suffix") != sysconfig.get_config_var("EXT_SUFFIX"):
        notes.append("launchers for this Python are not in it, and are compiled at the first launches")
    return True, "; ".join(notes)


def _named(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def triton_version() -> str:
    """Of the installed one; "" without one."""
    try:
        return importlib.metadata.version("triton").split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return ""


def capability() -> str:
    """Of the first GPU, "90"; "" where nobody knows of one."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    first = said.strip().splitlines()[:1]
    return first[0].strip().replace(".", "") if first and first[0].strip().replace(".", "").isdigit() else ""
