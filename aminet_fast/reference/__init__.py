"""The oracle: AMINet in plain PyTorch, one file a module of the paper, no custom operator and no switch."""

from __future__ import annotations

from .aminet import AMINet
from .attention import SelfAttention
from .edff import EDFF
from .lgfi import LGFI
from .norm import LayerNorm2d, layer_norm2d_ref
from .rdfe import RDFE
from .skaf import SKAF

__all__ = ["EDFF", "LGFI", "RDFE", "SKAF", "AMINet", "LayerNorm2d", "SelfAttention", "layer_norm2d_ref"]
