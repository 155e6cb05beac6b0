"""FRM's steps as functions (Eq. 11): batch normalisation as an affine map, its convolutions, the hourglass's gate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def reflect_pad(x: Tensor) -> Tensor:
    """One pixel of reflection on each side: [N, C, H, W] -> [N, C, H+2, W+2].

    An axis of one pixel has nothing to reflect but itself, as in numpy.pad; the hourglass of a 16x16 input has one.
    """
    h, w = x.shape[-2:]
    if h > 1 and w > 1:
        return F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = F.pad(x, (1, 1, 0, 0), mode="reflect" if w > 1 else "replicate")
    return F.pad(x, (0, 0, 1, 1), mode="reflect" if h > 1 else "replicate")


def channel_moments_ref(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel: [N, C, H, W] -> [C], [C]."""
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    return mean, var


def batch_norm_affine_ref(
    weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Batch normalisation as y = x * scale + shift; the biased variance. All [C] -> scale, shift, [C]."""
    scale = weight * torch.rsqrt(var + eps)
    return scale, bias - mean * scale


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return x * scale[:, None, None] + shift[:, None, None]


def norm_act_conv_ref(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    slope: float = 0.2,
    stride: int = 1,
    padding: str = "zeros",
    upsample: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """y = conv3x3(pad(leaky_relu(x * scale + shift))), after nearest x2 if `upsample`; and the moments of y.

    x [N, C, H, W], scale and shift [C], weight [K, C, 3, 3] -> [N, K, H', W'], [K], [K].
    """
    x = F.leaky_relu(_affine(x, scale, shift), slope)
    if upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    x = reflect_pad(x) if padding == "reflect" else F.pad(x, (1, 1, 1, 1))
    y = F.conv2d(x, weight, stride=stride)
    return y, *channel_moments_ref(y)


def hourglass_gate_ref(
    z: Tensor,
    x: Tensor,
    x_scale: Tensor,
    x_shift: Tensor,
    a: Tensor,
    a_scale: Tensor,
    a_shift: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: float = 0.2,
) -> Tensor:
    """z + norm(x) * sigmoid(conv3x3(reflect(act(norm(a)) + act(norm(b)))) + bias), the end of FRM.

    z and x [N, C, H, W], a and b [N, M, H, W], scales and shifts [C] or [M], weight [1, M, 3, 3], bias [1]
    -> [N, C, H, W].
    """
    s = F.leaky_relu(_affine(a, a_scale, a_shift), slope) + F.leaky_relu(_affine(b, b_scale, b_shift), slope)
    gate = F.conv2d(reflect_pad(s), weight, bias).sigmoid()
    return z + _affine(x, x_scale, x_shift) * gate
