"""``python -m benchmarks.gpu_pack.unpack``: unpacks a pack, and prints what a shell has to export to run from it.

Standard library only, and Python 3.10: it runs before anything is known of the machine. docs/gpu.md has the whole way.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from . import cache, manifest

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(__file__).resolve().with_name("site")
DONE = "unpacked.json"  # in the unpacked folder: of which archive it is, and where it was unpacked


def unpacked(pack: Path, folder: Path) -> Path:
    """The folder with the archive's content; nothing is done where it is there already.

    FileNotFoundError without a pack. What Triton has added to the cache of the same pack stays.
    """
    about = {"archive": manifest.read(pack)["archive"], "place": str(folder.resolve())}
    done = folder / DONE
    if done.exists() and json.loads(done.read_text()) == about:
        return folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as part:
        whole = Path(part, folder.name)
        with tarfile.open(pack / manifest.ARCHIVE) as tar:
            tar.extractall(whole, filter="data")
        shutil.rmtree(folder, ignore_errors=True)
        whole.rename(folder)
    folder = folder.resolve()
    cache.rewrite(folder / "cache")
    (folder / DONE).write_text(json.dumps(about))
    return folder


def activate(pack_folder: Path, build_folder: Path) -> dict[str, str]:
    """Unpacks into build_folder; the environment variables with which child processes run from the pack.

    TRITON_CACHE_DIR; PYTHONPATH, with what is in it now at its end; and what sitecustomize.py reads. Raises
    FileNotFoundError without a pack; manifest.state says whether it is of use.
    """
    folder = unpacked(Path(pack_folder), Path(build_folder))
    paths = [str(SITE), str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    found = {
        "TRITON_CACHE_DIR": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path)),
        "AMINET_PACK_TRITON": manifest.read(Path(pack_folder))["triton"],
    }
    module = folder / manifest.MODULE
    return found | ({"AMINET_PACK_MODULE": str(module)} if module.exists() else {})


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack.unpack", description=__doc__.split("\n\n")[0])
    parser.add_argument("--pack", type=Path, default=ROOT / ".gpu", help="the folder that travelled")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "gpu-unpacked")
    options = parser.parse_args()
    usable, why = manifest.state(ROOT, options.pack)
    print(f"gpu-pack: {why}", file=sys.stderr)
    if not usable:
        return 1
    begun = time.monotonic()
    for name, value in activate(options.pack, options.into).items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"gpu-pack: unpacked in {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
