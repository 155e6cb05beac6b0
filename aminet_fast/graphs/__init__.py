"""CUDA graphs: inference as one launch (`graph`), a training step as one (`graph_step`)."""

from __future__ import annotations

from .inference import graph
from .training import graph_step

__all__ = ["graph", "graph_step"]
