"""The operators: schema, shapes, gradients, checks of each; the maths is in the reference and the kernels."""

from __future__ import annotations

from .layer_norm2d import layer_norm2d
from .skaf_gate import skaf_gate

__all__ = ["layer_norm2d", "skaf_gate"]
