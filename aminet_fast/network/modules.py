"""Fast modules: subclasses of the reference's that override forward only, and `accelerate`, which puts them to work.

Parameters, buffers, keys and hooks are the reference module's own: a module is made fast by giving the very object
another class, and made plain again by giving the first one back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from .. import reference
from ..ops import (
    backends,
    channel_attention,
    channel_attention_prepack,
    layer_norm2d,
    multiscale_dwconv,
    rdfe_front,
    rdfe_front_prepack,
    skaf_descriptor,
    skaf_descriptor_prepack,
    skaf_gate,
)
from ..ops._library import autocast_dtype, laid_out
from ..reference.attention import SelfAttention
from ..reference.edff import EDFF
from ..reference.lgfi import LGFI
from ..reference.norm import LayerNorm2d
from ..reference.rdfe import RDFE, FeatureRefinement
from ..reference.skaf import SKAF
from .edges import swap_edges
from .fast_frm import FastFeatureRefinement

Model = TypeVar("Model", bound=nn.Module)


class FastLayerNorm2d(LayerNorm2d):
    """LN over channels; its output is channels_last, and so is then everything after it."""

    backend: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = laid_out(x, torch.channels_last)
        return layer_norm2d(x, self.weight, self.bias, self.eps, self.backend)


class FastSelfAttention(SelfAttention):
    """Self-attention in three passes over its input."""

    backend: str | None = None
    packed: Tensor | None = None  # these two: `freeze`
    packed_from: torch.dtype | None = None

    def prepacked(self) -> Tensor | None:
        """What `freeze` is to keep."""
        return channel_attention_prepack(self.qkv.weight)

    def forward(self, x: Tensor) -> Tensor:
        temperature = self.temperature if self.scale == "temperature" else None
        weights = self.qkv.weight, self.qkv_dw.weight, temperature, self.proj.weight
        packed = _packed(self, [self.qkv.weight])
        return channel_attention(x, *weights, self.heads, backend=self.backend, packed=packed)


class FastRDFE(RDFE):
    """RDFE with its front, Eq. 7-10, in one operator; ablations of the front have that of their branches."""

    backend: str | None = None
    packed: Tensor | None = None
    packed_from: torch.dtype | None = None

    def prepacked(self) -> Tensor | None:
        """What `freeze` is to keep."""
        return rdfe_front_prepack(*_depthwise(self.front_parameters())) if self._fused() else None

    def _fused(self) -> bool:
        return self.config.attention_unit == "pooled" and self.config.dw_twice

    def front(self, y: Tensor) -> Tensor:
        if self._fused():
            parameters = self.front_parameters()
            packed = _packed(self, [t for tensors in _depthwise(parameters) for t in tensors])
            return rdfe_front(y, *parameters, backend=self.backend, packed=packed)  # type: ignore[misc]
        f = self._branches(self.dw1, y)
        if self.config.attention_unit != "none":
            a = self.au(torch.cat(f, 1))
            f = tuple(f_k * a for f_k in f)
        if self.config.dw_twice:
            f = self._branches(self.dw2, f)
        return self.fuse(torch.cat(f, 1)) + y

    def _branches(self, modules: nn.Module, x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        convs = list(_convs(modules))
        return multiscale_dwconv(x, [dw.weight for dw in convs], [dw.bias for dw in convs], backend=self.backend)

    def forward(self, y: Tensor) -> Tensor:
        z = self.front(y)
        if not self.config.frm:
            return z
        if isinstance(self.frm, FastFeatureRefinement) and not _hooked(self.frm):
            return self.frm.add_to(z)
        return z + self.frm(z)


class FastLGFI(LGFI):
    """LGFI whose gates come from `skaf_descriptor` and are applied by `skaf_gate`."""

    backend: str | None = None
    packed: tuple[Tensor, ...] = ()  # what `freeze` kept of `prepacked`

    def prepacked(self) -> tuple[Tensor, ...]:
        """What `freeze` is to keep."""
        return _prepacked(self)

    def forward(self, x: Tensor) -> Tensor:
        if self.config.skaf != "both" or self.branches != 2 or not _fusible(self.skaf):
            return super().forward(x)
        y = self.norm(x)
        g, local = self.sa(y), self.rdfe(y)
        s = self.merge(torch.cat([g, local], 1)) if self.concat else g + local
        return _gated(self, s, g, local, x)


class FastEDFF(EDFF):
    """EDFF with the same two operators as `FastLGFI`."""

    backend: str | None = None
    packed: tuple[Tensor, ...] = ()

    def prepacked(self) -> tuple[Tensor, ...]:
        """What `freeze` is to keep."""
        return _prepacked(self)

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        if not self.weigh or not _fusible(self.skaf):
            return super().forward(encoder, decoder)
        s = self.reduce(torch.cat([encoder, decoder], 1))
        return _gated(self, s, encoder, decoder, None)


def _hooked(module: nn.Module) -> bool:
    """Whether somebody waits for this module to be called."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _convs(modules: nn.Module) -> Iterator[nn.Conv2d]:
    return iter(cast("nn.ModuleList", modules))  # type: ignore[arg-type]


def _depthwise(parameters: tuple[Any, ...]) -> tuple[list[Tensor], ...]:
    """Of rdfe_front's parameters the depthwise weights and biases, the first ones' and the second ones'."""
    return *parameters[:2], *parameters[6:8]


def _fusible(skaf: SKAF) -> bool:
    """Whether the operators compute this SKAF: dense convolutions, both pools over the channels, a mixing one."""
    dense = len(skaf.convs) > 0 and all(conv.groups == 1 for conv in _convs(skaf.convs))
    return dense and skaf.pools == ("avg", "max") and not skaf.spatial and skaf.mixed


def _skaf_weights(module: FastLGFI | FastEDFF) -> list[Tensor]:
    """The weights that `skaf_descriptor` is given; none where it is not used."""
    skaf = getattr(module, "skaf", None)
    return [conv.weight for conv in _convs(skaf.convs)] if skaf is not None and _fusible(skaf) else []


def _gated(
    module: FastLGFI | FastEDFF,
    s: Tensor,
    g: Tensor,
    local: Tensor,
    residual: Tensor | None,
) -> Tensor:
    skaf, weights = module.skaf, _skaf_weights(module)
    biases = [cast(Tensor, conv.bias) for conv in _convs(skaf.convs)]
    m = skaf_descriptor(s, weights, biases, module.backend, _packed_for(s, module, weights))
    return skaf_gate(m, skaf.mix.weight, skaf.mix.bias, g, local, residual, module.backend)  # type: ignore[arg-type]


def _prepacked(module: FastLGFI | FastEDFF) -> tuple[Tensor, ...]:
    """SKAF's weights as its kernels want them: for data of their own dtype, and for autocast to bfloat16."""
    weights = _skaf_weights(module)
    dtypes = dict.fromkeys([weights[0].dtype, torch.bfloat16]) if weights else ()
    made = (skaf_descriptor_prepack(weights, dtype) for dtype in dtypes)
    return tuple(packed for packed in made if packed is not None)


def _packed_for(s: Tensor, module: FastLGFI | FastEDFF, weights: list[Tensor]) -> Tensor | None:
    """What `freeze` kept of SKAF for s, where it is still what the operator takes beside these weights."""
    if not module.packed or module.training or any(w.requires_grad for w in weights):
        return None
    wanted, dtype = autocast_dtype(s), weights[0].dtype
    fitting = (kept for kept in module.packed if kept.dtype == wanted and kept.device == weights[0].device)
    return next(fitting, None) if dtype in (torch.float32, wanted) else None


def _packed(module: FastSelfAttention | FastRDFE, weights: list[Tensor]) -> Tensor | None:
    """What `freeze` kept, where it is still what the operator takes beside these weights."""
    kept = module.packed
    if kept is None or module.training or any(w.requires_grad for w in weights) or kept.device != weights[0].device:
        return None
    return kept if weights[0].dtype in (module.packed_from, kept.dtype) else None


# option of `accelerate`: plain class -> fast class
FAST: dict[str, dict[type[nn.Module], type[nn.Module]]] = {
    "attention": {SelfAttention: FastSelfAttention},
    "dwconv": {RDFE: FastRDFE},
    "skaf": {LGFI: FastLGFI, EDFF: FastEDFF},
    "norm": {LayerNorm2d: FastLayerNorm2d},
    "refinement": {FeatureRefinement: FastFeatureRefinement},
}


def accelerate(
    model: Model,
    *,
    attention: bool = True,
    dwconv: bool = True,
    skaf: bool = True,
    norm: bool = True,
    refinement: bool = True,
    edges: bool = True,
    backend: str | None = None,
) -> Model:
    """Make the modules of a reference AMINet fast, in place: this model's, no other's; the numbers stay.

    Parameters, buffers, state dict, optimizers that hold the parameters, hooks and training mode are untouched, so it
    may be done and undone at any time: an option that is False makes those modules plain again, and `decelerate` all of
    them. Modules whose configuration no operator computes keep the reference's forward.

    Args:
        model: A `reference.AMINet`, an `AMINet`, or any module that holds some of their modules.
        attention: SA by `channel_attention`.
        dwconv: RDFE's front, its depthwise branches up to the 1x1 convolution, by `rdfe_front`.
        skaf: LGFI's and EDFF's gates by `skaf_descriptor` and `skaf_gate`.
        norm: LN by `layer_norm2d`.
        refinement: FRM with its hourglass by `norm_act_conv` and `hourglass_gate`.
        edges: on CUDA devices the convolutions between these modules take their 16-bit weights under autocast from one
            cast a step (in an `AMINet`'s forward), and pixel shuffles keep channels_last.
        backend: "auto", "reference", "cpu", "triton" or "cuda"; None: AMINET_FAST_BACKEND when the model runs, else
            "auto".

    Returns:
        The model itself.

    Raises:
        TypeError: model is not a module.
        ValueError: it holds no module of an AMINet, or backend is unknown.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model must be a torch.nn.Module, got {type(model).__name__}")
    if backend is not None and backend not in backends.NAMES:
        raise ValueError(f"accelerate: backend={backend!r} is unknown: use one of {', '.join(backends.NAMES)}")
    wanted = {"attention": attention, "dwconv": dwconv, "skaf": skaf, "norm": norm, "refinement": refinement}
    found = False
    for module in model.modules():
        if isinstance(module, reference.AMINet):
            found = True
            swap_edges(module, edges)
        for option, classes in FAST.items():
            for plain, fast in classes.items():
                if type(module) in (plain, fast):
                    found = True
                    module.__class__ = fast if wanted[option] else plain
                    module.__dict__.pop("backend", None)
                    if wanted[option]:
                        module.backend = backend  # type: ignore[assignment]
    if not found:
        raise ValueError(f"accelerate: {type(model).__name__} holds no module of an AMINet")
    return model


def decelerate(model: Model) -> Model:
    """Undo `accelerate`: every module is the reference's again. Returns the model itself."""
    return accelerate(model, attention=False, dwconv=False, skaf=False, norm=False, refinement=False, edges=False)
