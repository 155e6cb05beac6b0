"""What a training step or an inference call takes of an H200, estimated without one (docs/gpu_model.md)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu-model"  # what is compiled and counted

# The harnesses that stand in for a GPU are the tests'. Last: what is installed comes before their folders triton, cuda.
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
