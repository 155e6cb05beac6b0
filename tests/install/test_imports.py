"""What the package imports: a network nothing of the commands', and nobody what pyproject.toml does not declare."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

# What training, the commands and the extras are made with; Pillow is for pictures, of which a network knows none.
COMMANDS = {
    *("accelerate", "gradio", "jsonargparse", "lpips", "matplotlib", "onnx", "onnxscript", "PIL", "rich", "skimage"),
    *("tensorboard", "torch_fidelity", "torchmetrics", "torchvision"),
}
# The names under which distributions are imported, where these differ.
DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "skimage": "scikit-image", "torch_fidelity": "torch-fidelity"}
DISTRIBUTIONS |= {"huggingface_hub": "huggingface-hub", "starlette": "gradio"}  # gradio is built on it


def test_a_network_loads_none_of_the_commands_packages() -> None:
    code = "import sys; from aminet_fast import AMINet; AMINet('aminet-nano'); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert {"torch", "aminet_fast.network.model"} <= loaded
    assert loaded & COMMANDS == set()
    subjects = {name.split(".")[1] for name in loaded if name.startswith("aminet_fast.")}
    others = {"commands", "training", "evaluate", "data", "metrics", "profiling", "restoration", "web"}
    assert subjects & others == set()


def imported(path: Path, nested: bool) -> set[str]:
    """Packages that a file imports, at its top level or (nested) anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"aminet_fast"}


def test_what_is_imported_is_declared() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=;! ]", requirement)[0].replace("_", "-") for requirement in requirements}

    hard = names(project["dependencies"])
    extras = {
        e: names(packages) for e, packages in project["optional-dependencies"].items() if e not in ("dev", "docs")
    }
    every = hard | set().union(*extras.values())
    for path in [*(ROOT / "aminet_fast").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]:
        for nested, allowed in ((False, hard), (True, every)):
            found = {DISTRIBUTIONS.get(name, name) for name in imported(path, nested)}
            assert found <= allowed, f"{path.relative_to(ROOT)} imports {sorted(found - allowed)}"
