"""What `torch.utils.flop_counter` counts of the operators: what it counts of their references, to the last FLOP.

A formula lists the convolutions and matrix products of the reference and has torch count them. So torch's conventions
are kept, odd ones too: a depthwise convolution's weight gradient counts as a dense one's. Work that an operator saves
or does twice is not seen, nor are norms, activations and sums, which torch does not count either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import unwrap
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import flop_counter

Shape = Sequence[int]
# On shapes; what torch registers of them takes tensors.
_convolution, _convolution_backward = unwrap(flop_counter.conv_flop), unwrap(flop_counter.conv_backward_flop)
_product = unwrap(flop_counter.bmm_flop)


class _Conv(NamedTuple):
    """A convolution of the reference: its input, weight and output."""

    x: Shape
    weight: Shape
    out: Shape

    def forward(self) -> int:
        return _convolution(self.x, self.weight, None, [1, 1], [0, 0], [1, 1], False, out_shape=self.out)

    def backward(self, x: bool, weight: bool) -> int:
        """Of the gradients that are wanted."""
        groups = self.x[1] // self.weight[1]
        options = None, [1, 1], [0, 0], [1, 1], False, [0, 0], groups, [x, weight, False]
        gradients = [self.x, self.weight, None]
        return _convolution_backward(self.out, self.x, self.weight, *options, out_shape=gradients)


def _same(x: Shape, weight: Tensor) -> _Conv:
    """A convolution that keeps H and W."""
    n, _, h, w = x
    return _Conv(x, weight.shape, (n, weight.shape[0], h, w))


def _wants(*tensors: Tensor | None) -> bool:
    """Whether the reference's gradient reaches any of them; of what an operator is told, its flags say it."""
    return any(t is not None and t.requires_grad for t in tensors)


def _attention(x: Tensor, qkv: Tensor, dw: Tensor, proj: Tensor, heads: int) -> tuple[_Conv, _Conv, _Conv, int]:
    """The three convolutions, and either of the two products of each head."""
    n, c, h, w = x.shape
    first = _same(x.shape, qkv)
    product = _product((n * heads, c // heads, h * w), (n * heads, h * w, c // heads))
    return first, _same(first.out, dw), _same(x.shape, proj), product


def channel_attention_fwd(
    x: Tensor, qkv: Tensor, dw: Tensor, temperature: Tensor | None, proj: Tensor, heads: int, *_: Any, **__: Any
) -> int:
    *convs, product = _attention(x, qkv, dw, proj, heads)
    return sum(conv.forward() for conv in convs) + 2 * product


def channel_attention_bwd(
    dy: Tensor,
    x: Tensor,
    qkv: Tensor,
    dw: Tensor,
    temperature: Tensor | None,
    proj: Tensor,
    gram: Tensor,
    attn: Tensor,
    kept: Tensor,
    heads: int,
    need_x: bool,
    need_qkv: bool,
    need_dw: bool,
    *_: Any,
    **__: Any,
) -> int:
    first, second, last, product = _attention(x, qkv, dw, proj, heads)
    into_second = need_x or need_qkv
    into_products = into_second or need_dw
    into_attn = into_products or _wants(temperature)
    # Of q and k, of the softmax, and of v.
    products = product * (2 * into_products + into_attn + into_products)
    convs = first.backward(need_x, need_qkv) + second.backward(into_second, need_dw)
    return products + convs + last.backward(into_attn, _wants(proj))


class _Front(NamedTuple):
    """rdfe_front's convolutions, and their parameters: those of the branches are weights, then biases."""

    first: list[_Conv]
    reduce: _Conv
    expand: _Conv
    second: list[_Conv]
    fuse: _Conv
    parameters: list[Tensor]

    def parts(self) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
        """Of the first convolutions, weights and biases; of the unit; of the second, weights and biases; of fuse."""
        b, p = len(self.first), self.parameters
        return p[:b], p[b : 2 * b], p[2 * b : 2 * b + 4], p[2 * b + 4 : 3 * b + 4], p[3 * b + 4 : 4 * b + 4], p[-2:]


def _front(y: Tensor, parameters: list[Tensor]) -> _Front:
    branches, (n, c, h, w) = (len(parameters) - 6) // 4, y.shape
    depthwise = [_same(y.shape, weight) for weight in parameters[:branches]]  # the second ones are of the same sizes
    reduce = _same((n, branches * c, 1, 1), parameters[2 * branches])
    expand = _same(reduce.out, parameters[2 * branches + 2])
    return _Front(depthwise, reduce, expand, depthwise, _same((n, branches * c, h, w), parameters[-2]), parameters)


def rdfe_front_fwd(y: Tensor, parameters: list[Tensor], *_: Any, **__: Any) -> int:
    front = _front(y, parameters)
    return sum(conv.forward() for conv in (*front.first, front.reduce, front.expand, *front.second, front.fuse))


def rdfe_front_bwd(
    dz: Tensor,
    y: Tensor,
    a: Tensor,
    sums: Tensor,
    parameters: list[Tensor],
    need_y: bool,
    need_parameters: bool,
    *_: Any,
    **__: Any,
) -> int:
    def wants(*tensors: Tensor) -> bool:
        return need_parameters and _wants(*tensors)

    front = _front(y, parameters)
    w1, b1, unit, w2, b2, fuse = front.parts()
    f = [need_y or wants(w, b) for w, b in zip(w1, b1, strict=True)]
    into_expand = any(f) or wants(*unit[:2])
    a_wanted = into_expand or wants(*unit[2:])
    count = front.reduce.backward(any(f), wants(unit[0])) + front.expand.backward(into_expand, wants(unit[2]))
    for conv, w in zip(front.first, w1, strict=True):
        count += conv.backward(need_y, wants(w))
    for conv, w, into in zip(front.second, w2, f, strict=True):
        count += conv.backward(into or a_wanted, wants(w))
    return count + front.fuse.backward(any(f) or a_wanted or wants(*w2, *b2), wants(fuse[0]))


def multiscale_dwconv_fwd(x: list[Tensor], weights: list[Tensor], *_: Any, **__: Any) -> int:
    return sum(_same(x[0].shape, w).forward() for w in weights)


def multiscale_dwconv_bwd(
    dy: list[Tensor],
    x: list[Tensor],
    weights: list[Tensor],
    scale: Tensor | None,
    need_x: bool,
    need_weights: bool,
    need_scale: bool,
    *_: Any,
    **__: Any,
) -> int:
    images = x * len(weights) if len(x) == 1 else x
    return sum(
        _same(image.shape, w).backward(need_scale or (need_x and _wants(image)), need_weights and _wants(w))
        for image, w in zip(images, weights, strict=True)
    )


def skaf_descriptor_fwd(x: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    return sum(_same(x.shape, w).forward() for w in weights)


def skaf_descriptor_bwd_input(dm: Tensor, argmax: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    n, _two, h, w = dm.shape
    return sum(_same((n, weight.shape[1], h, w), weight).backward(True, False) for weight in weights)


def skaf_descriptor_bwd_parameters(
    dm: Tensor, x: Tensor, argmax: Tensor, weights: list[Tensor], *_: Any, **__: Any
) -> int:
    return sum(_same(x.shape, weight).backward(False, _wants(weight)) for weight in weights)


def skaf_gate_fwd(m: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return _same(m.shape, weight).forward()


def skaf_gate_bwd(
    dy: Tensor,
    m: Tensor,
    weight: Tensor,
    g: Tensor,
    local: Tensor,
    gates: Tensor,
    need_m: bool,
    need_weight: bool,
    *_: Any,
    **__: Any,
) -> int:
    return _same(m.shape, weight).backward(need_m, need_weight and _wants(weight))


def norm_act_conv_fwd(x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, *_: Any, out_val: Any, **__: Any) -> int:
    return _Conv(x.shape, weight.shape, out_val[0].shape).forward()


def norm_act_conv_bwd(
    dy: Tensor,
    dmean: Tensor | None,
    dvar: Tensor | None,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight: Tensor,
    y: Tensor,
    mean: Tensor,
    slope: float,
    stride: int,
    reflect: bool,
    upsample: bool,
    need_input: bool,
    need_weight: bool,
    *_: Any,
    **__: Any,
) -> int:
    return _Conv(x.shape, weight.shape, dy.shape).backward(need_input, need_weight)


def hourglass_gate_fwd(z: Tensor, *inputs: Any, **_: Any) -> int:
    a, weight = inputs[3], inputs[9]
    return _same(a.shape, weight).forward()


def hourglass_gate_bwd(dy: Tensor, *inputs: Any, **_: Any) -> int:
    a, weight = inputs[3], inputs[9]
    return _same(a.shape, weight).backward(_wants(*inputs[3:9]), _wants(weight))


def nothing(*_: Any, **__: Any) -> int:
    """Of what the reference does without a convolution or a product, or not at all."""
    return 0


FORMULAS: tuple[Callable[..., int], ...] = (
    channel_attention_fwd,
    channel_attention_bwd,
    rdfe_front_fwd,
    rdfe_front_bwd,
    multiscale_dwconv_fwd,
    multiscale_dwconv_bwd,
    skaf_descriptor_fwd,
    skaf_descriptor_bwd_input,
    skaf_descriptor_bwd_parameters,
    skaf_gate_fwd,
    skaf_gate_bwd,
    norm_act_conv_fwd,
    norm_act_conv_bwd,
    hourglass_gate_fwd,
    hourglass_gate_bwd,
)
OTHERS = {
    "skaf_descriptor_bwd_packed": skaf_descriptor_bwd_input,
    **dict.fromkeys(
        [
            *("layer_norm2d_fwd", "layer_norm2d_bwd", "channel_moments_fwd", "channel_moments_bwd"),
            *("batch_norm_affine_fwd", "batch_norm_affine_bwd", "rdfe_front_prepack", "norm_act_conv_prepack"),
            *("skaf_descriptor_prepack", "skaf_descriptor_pack"),
        ],
        nothing,
    ),
}


def register() -> None:
    """Tell torch, for every FlopCounterMode that is made from now on."""
    for name, formula in {**{f.__name__: f for f in FORMULAS}, **OTHERS}.items():
        # With the tensors themselves: those that need gradients say so.
        flop_counter.register_flop_formula(getattr(torch.ops.aminet_fast, name), get_raw=True)(formula)
