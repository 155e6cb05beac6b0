"""The operators: schema, shapes, gradients, checks of each; the maths is in the reference and the kernels."""

from __future__ import annotations

from .._extension import load
from .channel_attention import channel_attention
from .layer_norm2d import layer_norm2d
from .skaf_descriptor import skaf_descriptor
from .skaf_gate import skaf_gate

load("_C")  # an exported program calls the operators themselves, past the public functions that would load it

__all__ = ["channel_attention", "layer_norm2d", "skaf_descriptor", "skaf_gate"]
