"""Loads the compiled modules, once, and keeps the reason when one is missing.

Neither module is needed: operators without it run as plain PyTorch. ``_C`` (CPU) and ``_C_cuda`` register
their kernels with torch while they are imported; a ``_C_cuda`` under a CPU build of torch fails here with
an ImportError, which ``python -m aminet_fast.info`` shows.
"""

from __future__ import annotations

import importlib
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch  # noqa: F401  libtorch must be in the process before a module that links to it

BUILD_FACTS = Path(__file__).with_name("_build.json")


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
        return importlib.import_module(f"aminet_fast.{name}"), ""
    except ModuleNotFoundError:
        label = "CPU" if name == "_C" else "CUDA"
        reasons = [note for note in build_facts().get("notes", []) if label in note or "nothing" in note]
        return None, reasons[0] if reasons else f"{label} extension not compiled: run pip install -e ."
    except ImportError as error:
        return None, f"aminet_fast.{name} is there but does not load: {error}"
