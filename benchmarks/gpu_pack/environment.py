"""``python -m benchmarks.gpu_pack.environment FOLDER``: this environment, with another Triton in front.

Kernels have to be compiled by the Triton that the GPU machine has; everything else may be the project's own.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
from pathlib import Path

LINK = "aminet_pack.pth"  # in the new environment: the way to this one's packages


def make(folder: Path, triton: str) -> Path:
    """The Python of a virtual environment that has this Triton and else this interpreter's packages."""
    python = folder / "bin" / "python"
    if version_in(python) != triton:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*install, f"triton=={triton}"], check=True)
        ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        place = Path(subprocess.check_output(ask, text=True).strip())
        (place / LINK).write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in package_folders()))
    if (found := version_in(python)) != triton:
        raise SystemExit(f"gpu-pack: {folder} has Triton {found or 'no longer any'}, wanted {triton}; remove it")
    return python


def package_folders() -> list[str]:
    """Of this interpreter; addsitedir follows what editable installs have left there."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))


def version_in(python: Path) -> str:
    """Triton's in another environment; "" where there is none, or no torch."""
    ask = "import importlib.metadata as m, importlib.util as u; "
    ask += "print(m.version('triton').split('+')[0] if u.find_spec('torch') else '')"
    try:
        return subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_pack.environment", description=__doc__.split("\n\n")[0]
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--triton", default="3.6.0")
    options = parser.parse_args()
    print(make(options.folder.absolute(), options.triton))


if __name__ == "__main__":
    main()
