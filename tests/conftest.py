"""Hypothesis looks at other examples every time, but not where a change waits to land; tests/triton is not Triton."""

from __future__ import annotations

import importlib.util
import os
import sys

from hypothesis import settings

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

# pytest puts tests/ on sys.path, and where Triton is not installed `import triton` would find the folder there.
if "triton" not in sys.modules:
    spec = importlib.util.find_spec("triton")
    if spec is not None and spec.origin is None:
        sys.modules["triton"] = None  # type: ignore[assignment]
