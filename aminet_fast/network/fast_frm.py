"""FRM by the package's operators: the reference's parameters and numbers, and its forward with few passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ..ops import backends, batch_norm_affine, channel_moments, hourglass_gate, norm_act_conv, norm_act_conv_prepack
from ..ops._library import entering
from ..reference.rdfe import FeatureRefinement, Hourglass, ReflectConv
from .children import NORM, Child, Fused, Layer, conv, listed
from .packed import Packed

Pair = tuple[Tensor, Tensor]  # scale and shift, [C]


class Moments(NamedTuple):
    """What a layer of batch normalisation saw in training: mean and biased variance [C] over `pixels` values."""

    bn: nn.BatchNorm2d
    mean: Tensor
    var: Tensor
    pixels: int


def update_running(seen: Sequence[Moments]) -> None:
    """The buffers of the layers after a training step, as nn.BatchNorm2d leaves them: with the unbiased variance.

    All layers at once, which is a few launches on a GPU and not a dozen for each.
    """
    with torch.no_grad():
        tracking = [m.bn for m in seen if m.bn.track_running_stats]
        counters = [bn.num_batches_tracked for bn in tracking if bn.num_batches_tracked is not None]
        if counters:
            torch._foreach_add_(counters, 1)
        groups: dict[float | None, list[Moments]] = {}
        for m in seen:
            if m.bn.track_running_stats and m.bn.running_mean is not None and m.bn.running_var is not None:
                groups.setdefault(m.bn.momentum, []).append(m)
        for momentum, group in groups.items():
            _move(group, momentum) if momentum is not None else _average(group)


def _buffers(group: Sequence[Moments]) -> tuple[list[Tensor], list[Tensor]]:
    """Running means, then running variances; and what they move to, of their dtypes."""
    buffers = [cast("Tensor", m.bn.running_mean) for m in group] + [cast("Tensor", m.bn.running_var) for m in group]
    unbiased = torch._foreach_mul([m.var.detach() for m in group], [m.pixels / (m.pixels - 1) for m in group])
    values = [m.mean.detach() for m in group] + list(unbiased)
    return buffers, [value.to(buffer.dtype) for value, buffer in zip(values, buffers, strict=True)]


def _move(group: Sequence[Moments], momentum: float) -> None:
    buffers, values = _buffers(group)
    torch._foreach_lerp_(buffers, values, momentum)


def _average(group: Sequence[Moments]) -> None:
    """momentum=None: the plain average over all steps, whose number is on the device."""
    for buffer, value, m in zip(*_buffers(group), [*group, *group], strict=True):
        buffer.lerp_(value, 1.0 / cast("Tensor", m.bn.num_batches_tracked).to(buffer.dtype))


def _on_batch(bn: nn.BatchNorm2d) -> bool:
    """Whether `bn` normalises by the batch's own moments."""
    return bn.training or bn.running_mean is None


class FastFeatureRefinement(Fused, FeatureRefinement):
    """FeatureRefinement whose parts are fused; an hourglass of another depth than 1 runs as the reference does."""

    backend: str | None = None
    packed: Packed | None = None  # `freeze`

    def children_of_operator(self) -> Iterable[Child]:
        hourglass = self.hourglass
        yield from listed("bn", self.bn, NORM)
        yield from listed("conv", self.conv, conv(3, bias=False))
        yield "hourglass", hourglass, Layer(Hourglass)
        layers = [("plus", hourglass.plus)]
        for name in ("b1", "b2", "b3"):
            branch = getattr(hourglass, name)
            yield from listed(f"hourglass.{name}", branch, Layer(ReflectConv))
            layers += [(f"{name}.{i}", layer) for i, layer in enumerate(branch)]
        for name, layer in layers:
            yield f"hourglass.{name}", layer, Layer(ReflectConv)
            stride = 2 if name.startswith("b2") else 1
            yield f"hourglass.{name}.conv", layer.conv, conv(3, bias=False, stride=stride, same=False)
            yield f"hourglass.{name}.bn", layer.bn, NORM
        yield "hourglass.out", hourglass.out, conv(3, same=False)

    def forward(self, z: Tensor) -> Tensor:
        """FRM(z), as the reference: [N, C, H, W] -> [N, C, H, W]."""
        if self._as_reference(z):
            return super().forward(z)
        z = entering(z)
        return self.refine(z, torch.zeros_like(z))

    def add_to(self, z: Tensor) -> Tensor:
        """z + FRM(z), RDFE's last step (Eq. 11): [N, C, H, W] -> [N, C, H, W]."""
        if self._as_reference(z):
            return z + super().forward(z)
        z = entering(z)
        return self.refine(z, z)

    def _as_reference(self, z: Tensor) -> bool:
        # Without kernels the operators' plain forms would be more passes than the reference's own batch norms.
        if not self.takes(z) or self.hourglass.depth != 1:
            return True
        return backends.choose("norm_act_conv", z.device.type, self.backend, z.dtype) == "reference"

    def train(self, mode: bool = True) -> FastFeatureRefinement:
        """As of any module; in training the running statistics move on, so that what `freeze` kept is forgotten."""
        if mode:
            for module in self.modules():
                module.__dict__.pop("affine_kept", None)
                module.__dict__.pop("packed", None)
        return super().train(mode)

    def refine(self, z: Tensor, residual: Tensor) -> Tensor:
        """residual + FRM(z)."""
        norms = [cast("nn.BatchNorm2d", bn) for bn in self.bn]
        # Once: to read a weight with a parametrization is to compute it.
        weights = [conv.weight for conv in self._convolutions()]
        layers = zip(weights, self._packed(weights, z), strict=True)
        seen: list[Moments] = []
        # Of the last normalisation's map there are three uses: both of the hourglass's branches, and its product.
        uses = [1] * (len(norms) - 1) + [3]
        mean, var = channel_moments(z, self.backend) if _on_batch(norms[0]) else (None, None)
        x, pairs = z, self._affine(norms[0], mean, var, z, seen, uses[0])
        for bn, of_it, (weight, packed) in zip(norms[1:], uses[1:], layers, strict=False):
            scale, shift = pairs[0]
            x, mean, var = norm_act_conv(
                x, scale, shift, weight, moments=_on_batch(bn), backend=self.backend, packed=packed
            )
            pairs = self._affine(bn, mean, var, x, seen, of_it)
        h, out = self.hourglass, self.hourglass.out
        # FRM's last normalisation has no activation behind it: slope 1.
        a, of_a = self._layer(h.b1[0], x, pairs[0], 1.0, layers, seen)
        low, of_low = self._layer(h.b2[0], x, pairs[1], 1.0, layers, seen)
        low, of_low = self._layer(h.plus, low, of_low, 0.2, layers, seen)
        b, of_b = self._layer(h.b3[0], low, of_low, 0.2, layers, seen, upsample=True)
        if seen:
            update_running(seen)
        bias = cast("Tensor", out.bias)
        return hourglass_gate(residual, x, *pairs[2], a, *of_a, b, *of_b, out.weight, bias, 0.2, self.backend)

    def _layer(
        self,
        layer: nn.Module,
        x: Tensor,
        affine: Pair,
        slope: float,
        layers: Iterator[tuple[Tensor, Tensor | None]],
        seen: list[Moments],
        upsample: bool = False,
    ) -> tuple[Tensor, Pair]:
        """A ReflectConv before its BN, and that BN as scale and shift; affine: those of x; layers: weights, packed."""
        stride, bn = cast("ReflectConv", layer).conv.stride[0], cast("ReflectConv", layer).bn
        weight, packed = next(layers)
        scale, shift = affine
        y, mean, var = norm_act_conv(
            x, scale, shift, weight, slope, stride, "reflect", upsample, _on_batch(bn), self.backend, packed
        )
        return y, self._affine(bn, mean, var, y, seen)[0]

    def _affine(
        self, bn: nn.BatchNorm2d, mean: Tensor | None, var: Tensor | None, x: Tensor, seen: list[Moments], uses: int = 1
    ) -> list[Pair]:
        """Scale and shift of `bn` on x, a pair for each use: from x's moments in training, else from the running ones.

        Raises ValueError where nn.BatchNorm2d does.
        """
        weight, bias = bn.weight, bn.bias
        if mean is None or var is None:
            mean, var = cast("Tensor", bn.running_mean), cast("Tensor", bn.running_var)
            kept: Packed | None = getattr(bn, "affine_kept", None)
            if kept is not None and (found := kept.of([weight, bias, mean, var])) is not None:
                eps, pair = found
                if eps == bn.eps:
                    return [pair] * uses
        elif bn.training:
            pixels = x.numel() // x.shape[1]
            if pixels == 1:
                raise ValueError("batch normalisation in training needs more than one value a channel, got one pixel")
            seen.append(Moments(bn, mean, var, pixels))
        return batch_norm_affine(weight, bias, mean, var, bn.eps, uses, self.backend)

    def _convolutions(self) -> list[nn.Conv2d]:
        """Those that `norm_act_conv` is, in the order of their use."""
        h = self.hourglass
        layers = [cast("ReflectConv", layer).conv for layer in (h.b1[0], h.b2[0], h.plus, h.b3[0])]
        return [*(cast("nn.Conv2d", conv) for conv in self.conv), *layers]

    def prepacked(self) -> Packed:
        """What `freeze` keeps: for data of the weights' dtype, and beside float32 on a GPU for autocast to bfloat16."""
        weights = [conv.weight for conv in self._convolutions()]
        dtypes = [weights[0].dtype]
        if weights[0].dtype == torch.float32 and weights[0].device.type != "cpu":
            dtypes.append(torch.bfloat16)
        return Packed(weights, {dtype: self._prepack(weights, dtype, backward=False) for dtype in dtypes})

    def _prepack(self, weights: list[Tensor], dtype: torch.dtype, backward: bool) -> list[Tensor | None]:
        """The convolutions' weights as their kernels take them for data of that dtype, in one launch."""
        strides = [conv.stride[0] for conv in self._convolutions()]
        upsamples = [False] * (len(strides) - 1) + [True]
        return norm_act_conv_prepack(weights, strides, upsamples, dtype, backward, self.backend)

    def _packed(self, weights: list[Tensor], z: Tensor) -> list[Tensor | None]:
        """What `freeze` kept, or on a GPU what is made of the weights for this call."""
        if self.packed is not None and (kept := self.packed.of(weights, z.dtype)) is not None:
            return cast("list[Tensor | None]", kept)
        # The CPU's kernels lay weights out for one direction at a time, and no sooner than they need them.
        if z.device.type == "cpu":
            return [None] * len(weights)
        return self._prepack(weights, z.dtype, torch.is_grad_enabled())
