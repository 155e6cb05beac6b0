"""scale = weight * rsqrt(var + eps), shift = bias - mean * scale, and its gradients.

Vectors of C: a launch takes about as long as it takes to start it, so each way is one, and what else is to be done with
such vectors is done in it: forward writes a copy for each use of the map, backward adds their gradients.

    forward reads 4 C numbers and writes 2 C for each use; backward reads 2 C for each use and 3 C, and writes 4 C
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ._common import TYPES, accumulator, cdiv, on_device_of

BLOCK = 256  # channels of a program: the network's widest 192 are one


@triton.jit
def _forward(
    weight, bias, mean, var, affine, channels, EPS: tl.constexpr, USES: tl.constexpr, ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """affine: scale, shift, scale, shift, ..."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    scale = tl.load(weight + c, mask=here, other=0).to(ACC)
    scale = scale / tl.sqrt(tl.load(var + c, mask=here, other=1).to(ACC) + EPS)
    shift = tl.load(bias + c, mask=here, other=0).to(ACC) - tl.load(mean + c, mask=here, other=0).to(ACC) * scale
    for i in tl.static_range(USES):
        tl.store(affine[2 * i] + c, scale, mask=here)
        tl.store(affine[2 * i + 1] + c, shift, mask=here)


@triton.jit
def _backward(
    dscales, dshifts, weight, mean, var, dweight, dbias, dmean, dvar, channels, EPS: tl.constexpr,
    SCALES: tl.constexpr, SHIFTS: tl.constexpr, ACC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = c < channels
    dscale = tl.zeros([BLOCK], ACC)
    dshift = tl.zeros([BLOCK], ACC)
    for i in tl.static_range(SCALES):
        dscale += tl.load(dscales[i] + c, mask=here, other=0).to(ACC)
    for i in tl.static_range(SHIFTS):
        dshift += tl.load(dshifts[i] + c, mask=here, other=0).to(ACC)
    w = tl.load(weight + c, mask=here, other=0).to(ACC)
    rstd = 1 / tl.sqrt(tl.load(var + c, mask=here, other=1).to(ACC) + EPS)
    dscale -= tl.load(mean + c, mask=here, other=0).to(ACC) * dshift  # shift holds scale too
    tl.store(dweight + c, (dscale * rstd).to(dweight.dtype.element_ty), mask=here)
    tl.store(dbias + c, dshift.to(dbias.dtype.element_ty), mask=here)
    tl.store(dmean + c, (-dshift * w * rstd).to(dmean.dtype.element_ty), mask=here)
    tl.store(dvar + c, (-0.5 * dscale * w * rstd * rstd * rstd).to(dvar.dtype.element_ty), mask=here)


def batch_norm_affine_fwd(
    weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float, uses: int
) -> list[Tensor]:
    acc, channels = accumulator(weight), weight.numel()
    affine = [weight.new_empty(channels, dtype=acc) for _ in range(2 * uses)]
    vectors = (t.contiguous() for t in (weight, bias, mean, var))
    with on_device_of(weight):
        _forward[(cdiv(channels, BLOCK),)](
            *vectors, tuple(affine), channels, EPS=eps, USES=uses, ACC=TYPES[acc], BLOCK=BLOCK, num_warps=4
        )
    return affine


def batch_norm_affine_bwd(
    dscales: list[Tensor], dshifts: list[Tensor], weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of weight, bias, mean and var, each of its dtype; a list may be empty."""
    acc, channels = TYPES[accumulator(weight)], weight.numel()
    dweight, dbias, dmean, dvar = (t.new_empty(channels) for t in (weight, bias, mean, var))
    scales, shifts = (tuple(g.contiguous() for g in given) for given in (dscales, dshifts))
    vectors = (t.contiguous() for t in (weight, mean, var))
    with on_device_of(weight):
        _backward[(cdiv(channels, BLOCK),)](
            scales or (weight,), shifts or (weight,), *vectors, dweight, dbias, dmean, dvar, channels,
            EPS=eps, SCALES=len(scales), SHIFTS=len(shifts), ACC=acc, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip
    return dweight, dbias, dmean, dvar
