"""Loads the compiled modules, once, and keeps the reason when one is missing; finds the Triton kernels.

Neither module is needed: operators without it run as plain PyTorch. ``_C`` (CPU) and ``_C_cuda`` register
their kernels with torch while they are imported; a ``_C_cuda`` under a CPU build of torch fails here with
an ImportError, which ``aminet info`` shows.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # noqa: F401  libtorch must be in the process before a module that links to it

BUILD_FACTS = Path(__file__).parents[1] / "_compiled" / "build.json"


@cache
def build_facts() -> dict[str, Any]:
    """What setup.py noted when the package was installed; empty in a source tree that was never installed."""
    try:
        return json.loads(BUILD_FACTS.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


@cache
def load(name: str) -> tuple[ModuleType | None, str]:
    """(module, "") for ``_C`` or ``_C_cuda``, or (None, why it is missing)."""
    try:
        return importlib.import_module(f"aminet_fast._compiled.{name}"), ""
    except ModuleNotFoundError:
        label = "CPU" if name == "_C" else "CUDA"
        reasons = [note for note in build_facts().get("notes", []) if label in note or "nothing" in note]
        return None, reasons[0] if reasons else f"{label} extension not compiled: run pip install -e ."
    except ImportError as error:
        return None, f"aminet_fast._compiled.{name} is there but does not load: {error}"


def kernels(operator: str) -> ModuleType:
    """kernels/<operator>.py.

    An install maps that folder to aminet_fast.kernels. A source tree that was only built in place has it beside the
    package, from where it is given that name here.
    """
    if importlib.util.find_spec("aminet_fast.kernels") is None:
        init = Path(__file__).parents[2] / "kernels" / "__init__.py"
        spec = importlib.util.spec_from_file_location("aminet_fast.kernels", init)
        if spec is None or spec.loader is None or not init.exists():
            raise ModuleNotFoundError("aminet_fast.kernels is not installed: run pip install .")
        module = importlib.util.module_from_spec(spec)
        sys.modules["aminet_fast.kernels"] = module
        spec.loader.exec_module(module)
    return importlib.import_module(f"aminet_fast.kernels.{operator}")
