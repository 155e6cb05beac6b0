"""FRM by the package's operators: the reference's parameters and numbers, and its forward with few passes."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from . import backends
from .ops import channel_moments, hourglass_gate, norm_act_conv
from .ops._library import entering
from .reference.rdfe import FeatureRefinement, ReflectConv


def batch_norm_affine(
    weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Batch normalisation as y = x * scale + shift; the biased variance. All [C] -> scale, shift, [C].

    In float32 at least, as torch does it for 16-bit parameters. With the moments of the batch its gradient is batch
    normalisation's: what comes through mean and var is theirs.
    """
    weight, bias, mean, var = (t.to(_wide(weight)) for t in (weight, bias, mean, var))
    scale = weight * torch.rsqrt(var + eps)
    return scale, bias - mean * scale


def _wide(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def _fits(kept: Tensor, weight: Tensor) -> bool:
    return (kept.dtype, kept.device) == (_wide(weight), weight.device)


def update_running(bn: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """The buffers of `bn` after a training step on `count` values a channel, as nn.BatchNorm2d leaves them.

    mean and biased var [C]; the buffers take the unbiased variance. Raises ValueError where nn.BatchNorm2d does.
    """
    if count == 1:
        raise ValueError("batch normalisation in training needs more than one value a channel, got one pixel")
    if not bn.track_running_stats or bn.running_mean is None or bn.running_var is None:
        return
    with torch.no_grad():
        factor: float | Tensor = 0.0 if bn.momentum is None else bn.momentum
        if bn.num_batches_tracked is not None:
            bn.num_batches_tracked.add_(1)
            if bn.momentum is None:
                factor = 1.0 / bn.num_batches_tracked.to(bn.running_mean.dtype)
        unbiased = var * (count / (count - 1))
        for buffer, value in ((bn.running_mean, mean), (bn.running_var, unbiased)):
            buffer.copy_(buffer + (value.to(buffer.dtype) - buffer) * factor)


def _on_batch(bn: nn.BatchNorm2d) -> bool:
    """Whether `bn` normalises by the batch's own moments."""
    return bn.training or bn.running_mean is None


def _affine(bn: nn.BatchNorm2d, mean: Tensor | None, var: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Scale and shift of `bn`: from the batch's moments in training, else from the running ones."""
    if mean is None or var is None:
        kept = getattr(bn, "affine_kept", None)  # by `freeze`
        thawed = bn.weight.requires_grad or bn.bias.requires_grad
        if kept is not None and not thawed and _fits(kept[0], bn.weight):
            return kept
        mean, var = cast("Tensor", bn.running_mean), cast("Tensor", bn.running_var)
    elif bn.training:
        update_running(bn, mean.detach(), var.detach(), count)
    return batch_norm_affine(bn.weight, bn.bias, mean, var, bn.eps)


class FastFeatureRefinement(FeatureRefinement):
    """FeatureRefinement whose parts are fused; an hourglass of another depth than 1 runs as the reference does."""

    backend: str | None = None

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
        chosen = backends.choose("norm_act_conv", z.device.type, self.backend, z.dtype)
        synchronised = isinstance(self.bn[0], nn.SyncBatchNorm)
        return self.hourglass.depth != 1 or chosen == "reference" or synchronised

    def train(self, mode: bool = True) -> FastFeatureRefinement:
        """As of any module; in training the running statistics move on, so that what `freeze` kept is forgotten."""
        if mode:
            for module in self.modules():
                module.__dict__.pop("affine_kept", None)
        return super().train(mode)

    def refine(self, z: Tensor, residual: Tensor) -> Tensor:
        """residual + FRM(z)."""
        norms = [cast("nn.BatchNorm2d", bn) for bn in self.bn]
        mean, var = channel_moments(z, self.backend) if _on_batch(norms[0]) else (None, None)
        scale, shift = _affine(norms[0], mean, var, z.numel() // z.shape[1])
        x = z
        for conv, bn in zip(self.conv, norms[1:], strict=True):
            weight = cast("nn.Conv2d", conv).weight
            x, mean, var = norm_act_conv(x, scale, shift, weight, moments=_on_batch(bn), backend=self.backend)
            scale, shift = _affine(bn, mean, var, x.numel() // x.shape[1])
        h, out = self.hourglass, self.hourglass.out
        # FRM's last normalisation has no activation behind it: slope 1.
        a, a_scale, a_shift = self._layer(h.b1[0], x, scale, shift, 1.0)
        low, low_scale, low_shift = self._layer(h.b2[0], x, scale, shift, 1.0)
        low, low_scale, low_shift = self._layer(h.plus, low, low_scale, low_shift, 0.2)
        b, b_scale, b_shift = self._layer(h.b3[0], low, low_scale, low_shift, 0.2, upsample=True)
        bias = cast("Tensor", out.bias)
        return hourglass_gate(
            residual, x, scale, shift, a, a_scale, a_shift, b, b_scale, b_shift, out.weight, bias, 0.2, self.backend
        )

    def _layer(
        self, layer: nn.Module, x: Tensor, scale: Tensor, shift: Tensor, slope: float, upsample: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A ReflectConv before its BN, and that BN as scale and shift."""
        conv, bn = cast("ReflectConv", layer).conv, cast("ReflectConv", layer).bn
        options = conv.stride[0], "reflect", upsample, _on_batch(bn), self.backend
        y, mean, var = norm_act_conv(x, scale, shift, conv.weight, slope, *options)
        return y, *_affine(bn, mean, var, y.numel() // y.shape[1])
