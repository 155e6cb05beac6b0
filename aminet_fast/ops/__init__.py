"""The operators: schema, shapes, gradients and checks of each; the maths is in the reference and in the kernels."""

from __future__ import annotations

from .layer_norm2d import layer_norm2d

__all__ = ["layer_norm2d"]
