"""The operators: schema, shapes, gradients, checks of each; the maths is in the reference and the kernels."""

from __future__ import annotations

from . import _flops
from .batch_norm_affine import batch_norm_affine
from .channel_attention import channel_attention, channel_attention_prepack
from .channel_moments import channel_moments
from .extension import load
from .hourglass_gate import hourglass_gate
from .layer_norm2d import layer_norm2d
from .multiscale_dwconv import multiscale_dwconv
from .norm_act_conv import norm_act_conv, norm_act_conv_prepack
from .rdfe_front import rdfe_front, rdfe_front_prepack
from .skaf_descriptor import skaf_descriptor, skaf_descriptor_prepack
from .skaf_gate import skaf_gate

load("_C")  # an exported program calls the operators themselves, past the public functions that would load it
_flops.register()

__all__ = [
    "batch_norm_affine",
    "channel_attention",
    "channel_attention_prepack",
    "channel_moments",
    "hourglass_gate",
    "layer_norm2d",
    "multiscale_dwconv",
    "norm_act_conv",
    "norm_act_conv_prepack",
    "rdfe_front",
    "rdfe_front_prepack",
    "skaf_descriptor",
    "skaf_descriptor_prepack",
    "skaf_gate",
]
