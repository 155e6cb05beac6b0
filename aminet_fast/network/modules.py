"""Fast modules: subclasses of the reference's that override forward only, and `accelerate`, which puts them to work.

Parameters, buffers, keys and hooks are the reference module's own: a module is made fast by giving the very object
another class, and made plain again by giving the first one back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from ..reference.rdfe import RDFE, AttentionUnit, FeatureRefinement
from ..reference.skaf import SKAF
from .children import Child, Fused, Layer, conv, listed
from .edges import swap_edges
from .fast_frm import FastFeatureRefinement
from .packed import Packed

Model = TypeVar("Model", bound=nn.Module)


class FastLayerNorm2d(Fused, LayerNorm2d):
    """LN over channels; its output is channels_last, and so is then everything after it."""

    backend: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes(x):
            return super().forward(x)
        x = laid_out(x, torch.channels_last)
        return layer_norm2d(x, self.weight, self.bias, self.eps, self.backend)


class FastSelfAttention(Fused, SelfAttention):
    """Self-attention in three passes over its input."""

    backend: str | None = None
    packed: Packed | None = None  # `freeze`

    def children_of_operator(self) -> Iterable[Child]:
        yield "qkv", self.qkv, conv(1, bias=False)
        yield "qkv_dw", self.qkv_dw, conv(3, bias=False, depthwise=True)
        yield "proj", self.proj, conv(1, bias=False)

    def prepacked(self) -> Packed:
        """What `freeze` is to keep."""
        weight = self.qkv.weight
        return Packed([weight], {weight.dtype: channel_attention_prepack(weight)})

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes(x):
            return super().forward(x)
        temperature = self.temperature if self.scale == "temperature" else None
        weights = self.qkv.weight, self.qkv_dw.weight, temperature, self.proj.weight
        packed = _packed(self, weights[:1])
        return channel_attention(x, *weights, self.heads, backend=self.backend, packed=packed)


class FastRDFE(Fused, RDFE):
    """RDFE with its front, Eq. 7-10, in one operator; ablations of the front have that of their branches."""

    backend: str | None = None
    packed: Packed | None = None

    def children_of_operator(self) -> Iterable[Child]:
        yield from listed("dw1", self.dw1, conv(None, depthwise=True))
        if self.config.dw_twice:
            yield from listed("dw2", self.dw2, conv(None, depthwise=True))
        if self._fused():
            yield "au", self.au, Layer(AttentionUnit)
            yield "au.reduce", self.au.reduce, conv(1)
            yield "au.expand", self.au.expand, conv(1)
            yield "fuse", self.fuse, conv(1)

    def prepacked(self) -> Packed | None:
        """What `freeze` is to keep."""
        if not self._fused():
            return None
        depthwise = _depthwise(self.front_parameters())
        return Packed(_flat(depthwise), {depthwise[0][0].dtype: rdfe_front_prepack(*depthwise)})

    def _fused(self) -> bool:
        return self.config.attention_unit == "pooled" and self.config.dw_twice

    def front(self, y: Tensor) -> Tensor:
        if not self.takes(y):
            return super().front(y)
        if self._fused():
            parameters = self.front_parameters()
            packed = _packed(self, _flat(_depthwise(parameters)))
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
        if type(self.frm) is FastFeatureRefinement and not self.frm.watched():
            return self.frm.add_to(z)
        return z + self.frm(z)


class _Gated(Fused):
    """What `FastLGFI` and `FastEDFF` share: gates from `skaf_descriptor`, applied by `skaf_gate`."""

    backend: str | None = None
    packed: Packed | None = None
    skaf: SKAF

    def children_of_operator(self) -> Iterable[Child]:
        skaf = getattr(self, "skaf", None)
        if skaf is not None and (not isinstance(skaf, SKAF) or _fusible(skaf)):
            yield "skaf", skaf, Layer(SKAF)
            yield from listed("skaf.convs", skaf.convs, conv(None))
            yield "skaf.mix", skaf.mix, conv(None)

    def prepacked(self) -> Packed | None:
        """What `freeze` is to keep: SKAF's weights for data of their own dtype, and for autocast to bfloat16."""
        if not _fusible(getattr(self, "skaf", None)):
            return None
        weights = self._weights()
        dtypes = dict.fromkeys([weights[0].dtype, torch.bfloat16])
        return Packed(weights, {dtype: skaf_descriptor_prepack(weights, dtype) for dtype in dtypes})

    def _weights(self) -> list[Tensor]:
        return [conv.weight for conv in _convs(self.skaf.convs)]

    def gated(self, s: Tensor, g: Tensor, local: Tensor, residual: Tensor | None) -> Tensor:
        skaf, weights = self.skaf, self._weights()
        biases = [cast(Tensor, conv.bias) for conv in _convs(skaf.convs)]
        packed = _packed(self, weights, autocast_dtype(s))
        m = skaf_descriptor(s, weights, biases, self.backend, packed)
        return skaf_gate(m, skaf.mix.weight, skaf.mix.bias, g, local, residual, self.backend)  # type: ignore[arg-type]


class FastLGFI(_Gated, LGFI):
    """LGFI whose gates come from `skaf_descriptor` and are applied by `skaf_gate`."""

    def forward(self, x: Tensor) -> Tensor:
        if self.config.skaf != "both" or self.branches != 2 or not self.takes(x) or not _fusible(self.skaf):
            return super().forward(x)
        y = self.norm(x)
        g, local = self.sa(y), self.rdfe(y)
        s = self.merge(torch.cat([g, local], 1)) if self.concat else g + local
        return self.gated(s, g, local, x)


class FastEDFF(_Gated, EDFF):
    """EDFF with the same two operators as `FastLGFI`."""

    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        if not self.weigh or not self.takes(encoder) or not _fusible(self.skaf):
            return super().forward(encoder, decoder)
        s = self.reduce(torch.cat([encoder, decoder], 1))
        return self.gated(s, encoder, decoder, None)


def _convs(modules: nn.Module) -> Iterator[nn.Conv2d]:
    return iter(cast("nn.ModuleList", modules))  # type: ignore[arg-type]


def _depthwise(parameters: tuple[Any, ...]) -> tuple[list[Tensor], ...]:
    """Of rdfe_front's parameters the depthwise weights and biases, the first ones' and the second ones'."""
    return *parameters[:2], *parameters[6:8]


def _flat(lists: Iterable[list[Tensor]]) -> list[Tensor]:
    return [tensor for tensors in lists for tensor in tensors]


def _fusible(skaf: nn.Module | None) -> bool:
    """Whether the operators compute a SKAF of this kind: dense convolutions, both pools over channels, and mixed."""
    if not isinstance(skaf, SKAF) or skaf.pools != ("avg", "max") or skaf.spatial or not skaf.mixed:
        return False
    return skaf.dense and len(skaf.convs) > 0


def _packed(module: Any, weights: Sequence[Tensor], dtype: torch.dtype | None = None) -> Tensor | None:
    """What `freeze` kept, where it is still what the operator takes beside these weights and data of that dtype."""
    kept = module.packed
    return None if kept is None or module.training else kept.of(weights, dtype)


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
                    for name in ("backend", "_verdict"):
                        module.__dict__.pop(name, None)
                    if wanted[option]:
                        module.backend = backend  # type: ignore[assignment]
    if not found:
        raise ValueError(f"accelerate: {type(model).__name__} holds no module of an AMINet")
    return model


def decelerate(model: Model) -> Model:
    """Undo `accelerate`: every module is the reference's again. Returns the model itself."""
    return accelerate(model, attention=False, dwconv=False, skaf=False, norm=False, refinement=False, edges=False)
