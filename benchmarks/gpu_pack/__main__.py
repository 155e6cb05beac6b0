"""``make gpu-pack``: compiles on a machine without a GPU what a GPU machine would have to compile.

Into the folder --out: pack.tar.xz with Triton's cache, the launchers of kernels for the other machine's Python, and
_C_cuda; and manifest.json, which says of what sources. docs/gpu.md has the way there and back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import cache, launchers, manifest, sizes, tasks
from .unpack import ROOT, SITE

MOST = 60.0  # MiB that travel


def main(arguments: list[str] | None = None) -> None:
    options = parsed(arguments)
    check_triton(options.triton)
    begun = time.monotonic()
    out, build = options.out.resolve(), options.build.resolve() / f"triton-{options.triton}-sm{options.arch}"
    made_of = manifest.sources(ROOT, options.cuda)
    out.mkdir(parents=True, exist_ok=True)
    (out / manifest.NAME).unlink(missing_ok=True)  # no half-made pack is of use
    content = build / "content"
    shutil.rmtree(content, ignore_errors=True)
    (content / "cache").mkdir(parents=True)
    todo = options.tasks or every_task()
    about = {"triton": options.triton, "arch": options.arch, "cuda": options.cuda, "tasks": todo}
    about["kernels"] = compile_kernels(todo, build, content / "cache", options)
    about |= add_launchers(build, content / "cache", options)
    if options.cuda:
        compile_module(content / manifest.MODULE, options.arch, options.jobs)
    about["unpacked_bytes"] = sizes.bytes_under(content)
    write_archive(content, out / manifest.ARCHIVE)
    if manifest.sources(ROOT, options.cuda) != made_of:
        raise SystemExit("gpu-pack: sources were edited meanwhile, and the pack is of none of both; run it again")
    about["seconds"] = round(time.monotonic() - begun)
    manifest.write(out, about | made_of)
    print(json.dumps({name: value for name, value in about.items() if name != "tasks"}))
    print(f"in MiB: {sizes.report(ROOT, out, options.most)}")


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / ".gpu", help="an ignored folder, which travels")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "gpu-pack", help="one that stays here")
    parser.add_argument("--arch", type=architecture, default=90, help="of the GPU: sm_90 (default), sm_80, sm_89, ...")
    parser.add_argument("--triton", default="3.6.0", help="the other machine's, which this interpreter has to have")
    parser.add_argument("--python", default="3.12", help="the other machine's; one is needed here for the launchers")
    parser.add_argument("--no-cuda", dest="cuda", action="store_false", help="without _C_cuda")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    parser.add_argument("--tasks", nargs="+", help="what is compiled; else everything: see tasks.py")
    parser.add_argument("--most", type=float, default=MOST, help="MiB that may travel, tree and faces included")
    return parser.parse_args(arguments)


def architecture(text: str) -> int:
    return int(text.removeprefix("sm_"))


def check_triton(wanted: str) -> None:
    """SystemExit where this interpreter has another."""
    if (here := manifest.triton_version()) != wanted:
        raise SystemExit(
            f"gpu-pack: Triton {wanted} has to compile the kernels, and this Python has {here or 'none'}; "
            f"make gpu-pack PACK_TRITON={wanted} makes an environment that has it"
        )


def every_task() -> list[str]:
    """What takes longest first."""
    from tests.harness.triton.case import operators

    cases = [f"cases:{operator}:{dtype}" for dtype in ("bf16", "fp32") for operator in operators()]
    return [*tasks.NETWORK, tasks.SANITIZER, *cases]


def compile_kernels(todo: list[str], build: Path, target: Path, options: argparse.Namespace) -> int:
    """Runs the tasks in `jobs` processes, each with every n-th; their kernels go into `target`; how many."""
    noted = build / "noted"
    shutil.rmtree(noted, ignore_errors=True)
    command = [sys.executable, "-m", "benchmarks.gpu_pack.tasks", "--arch", str(options.arch), "--out", str(noted)]
    shares = [share for n in range(options.jobs) if (share := todo[n :: options.jobs])]
    env = environment(build / "cache", options.triton)
    started = [subprocess.Popen([*command, *share], env=env, cwd=ROOT) for share in shares]
    exits = [process.wait() for process in started]
    if any(exits):
        raise SystemExit("gpu-pack: a task failed")
    keys = {key for path in noted.glob("kernels-*.json") for key in json.loads(path.read_text())}
    return cache.prune(build / "cache", map(cache.folder_of, keys), target)


def environment(folder: Path, triton: str) -> dict[str, str]:
    paths = os.pathsep.join(map(str, (SITE, ROOT)))
    found = os.environ | {"TRITON_CACHE_DIR": str(folder), "PYTHONPATH": paths, "AMINET_PACK_TRITON": triton}
    return found | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def add_launchers(build: Path, target: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Facts for the manifest: how many, and the ending of modules of the Python that they are for."""
    sources = sorted((build / "noted").glob("*.c"))
    python, problem = launchers.target_of(options.python)
    if not sources:
        problem = f"Triton {options.triton} makes none of its own for a kernel"
    if python is None or problem:
        print(f"gpu-pack: no launchers: {problem}; the GPU machine compiles what it needs")
        return {"launchers": 0, "suffix": ""}
    count = launchers.compile_all(sources, target, build, python, options.jobs)
    return {"launchers": count, "suffix": python.suffix}


def compile_module(target: Path, arch: int, jobs: int) -> None:
    """_C_cuda for one architecture, by the way the tests compile it."""
    from tests.harness.cuda import nvcc

    if problem := nvcc.problem():
        raise SystemExit(f"gpu-pack: {problem}; --no-cuda (PACK_CUDA=0) packs Triton's kernels alone")
    files = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
    with ThreadPoolExecutor(jobs) as pool:
        objects = [made.path for made in pool.map(lambda file: nvcc.compiled(file, arch, spills=True), files)]
    nvcc.linked(objects, target)
    subprocess.run(["strip", "--strip-unneeded", str(target)], check=True)


def write_archive(content: Path, target: Path) -> None:
    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.mtime = info.uid = info.gid = 0
        info.uname = info.gname = ""
        return info

    part = target.with_suffix(".part")
    with tarfile.open(part, "w:xz", preset=6) as tar:
        tar.add(content, arcname=".", filter=plain)
    part.replace(target)


if __name__ == "__main__":
    main()
