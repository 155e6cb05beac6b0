"""What a training step or an inference call takes of an H200, estimated without one (docs/gpu_model.md)."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu-model"  # what is compiled and counted
