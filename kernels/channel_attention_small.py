"""channel_attention's matrices of channels, between the passes over the pixels; everything in float32.

Heads have D channels each: G = q k^T and attn are [D, D] a head, M = projection * blockdiag(attn) is [C, C] an image.
Programs go down a head's rows BI at a time; BJ covers all D columns. All of it is some MFLOP an image: latency only.
"""

from __future__ import annotations

import triton
import triton.language as tl

# torch.nn.functional.normalize's
SMALLEST_NORM = tl.constexpr(1e-12)


@triton.jit
def _inverse(squares, inside, NORMALISED: tl.constexpr):
    """1 / max(norm, smallest), and its square where the norm is the larger, else 0: no gradient passes it then."""
    norm = tl.sqrt(tl.load(squares, mask=inside, other=1.0))
    if NORMALISED:
        inverse = 1.0 / tl.maximum(norm, SMALLEST_NORM)
        squared = tl.where(norm < SMALLEST_NORM, 0.0, inverse * inverse)
    else:
        inverse = tl.zeros_like(norm) + 1.0
        squared = tl.zeros_like(norm)
    return inverse, squared


@triton.jit
def softmax_kernel(
    gram,  # [N, C * D + 2C]: q k^T, squared norms of q's channels, of k's
    temperature,  # [HEADS]
    projection,  # [C, C]
    attn,  # [N, C, D]; with STORE
    fused,  # [N, C in, C out], data's dtype: M^T
    C: tl.constexpr,
    D: tl.constexpr,
    HEADS,
    scale,  # without temperature
    NORMALISED: tl.constexpr,
    STORE: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    BO: tl.constexpr,
):
    image = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    gram += image * (C * D + 2 * C)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    j = tl.arange(0, BJ)
    of_k, _k = _inverse(gram + C * D + C + head * D + j, j < D, NORMALISED)
    if NORMALISED:
        scale = tl.load(temperature + head).to(tl.float32)
    product = tl.zeros([BJ, BO], tl.float32)
    for first in range(0, D, BI):
        i = first + tl.arange(0, BI)
        matrix = (head * D + i[:, None]) * D + j[None, :]
        in_matrix = (i[:, None] < D) & (j[None, :] < D)
        of_q, _q = _inverse(gram + C * D + head * D + i, i < D, NORMALISED)
        z = tl.load(gram + matrix, mask=in_matrix, other=0.0) * of_q[:, None] * of_k[None, :] * scale
        z = tl.where(j[None, :] < D, z, -float("inf"))
        e = tl.exp(z - tl.max(z, 1)[:, None])
        a = e / tl.sum(e, 1)[:, None]
        if STORE:
            tl.store(attn + image * C * D + matrix, a, mask=in_matrix & (tl.program_id(1) + 0 * j[None, :] == 0))
        of_p = o[None, :] * C + head * D + i[:, None]
        p = tl.load(projection + of_p, mask=(i[:, None] < D) & (o[None, :] < C), other=0.0).to(tl.float32)
        product = tl.dot(tl.trans(a), p, product, input_precision="ieee")
    to = fused + image * C * C + (head * D + j[:, None]) * C + o[None, :]
    tl.store(to, product.to(fused.dtype.element_ty), mask=(j[:, None] < D) & (o[None, :] < C))


@triton.jit
def dsoftmax_kernel(
    dfused,  # [N, C in, C out]: sums of v dy^T, the gradient of M^T
    projection,  # [C, C]
    gram,  # [N, C * D + 2C]
    attn,  # [N, C, D]
    temperature,  # [HEADS]
    mix,  # [N, HEADS, 2, D, 2, D], data's dtype: [dq | dk] = [q | k] mix
    dprojection,  # [N, C out, C in]
    dtemperature,  # [N, HEADS]; with NORMALISED
    C: tl.constexpr,
    D: tl.constexpr,
    HEADS,
    scale,  # without temperature
    NORMALISED: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    BO: tl.constexpr,
):
    image = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    gram += image * (C * D + 2 * C)
    mix += (image * HEADS + head) * 4 * D * D
    kind = mix.dtype.element_ty
    j = tl.arange(0, BJ)
    of_k, of_k_squared = _inverse(gram + C * D + C + head * D + j, j < D, NORMALISED)
    if NORMALISED:
        scale = tl.load(temperature + head).to(tl.float32)
    through_k = tl.zeros([BJ], tl.float32)
    to_temperature = tl.zeros([BJ], tl.float32)
    for first in range(0, D, BI):
        i = first + tl.arange(0, BI)
        matrix = (head * D + i[:, None]) * D + j[None, :]
        in_matrix = (i[:, None] < D) & (j[None, :] < D)
        a = tl.load(attn + image * C * D + matrix, mask=in_matrix, other=0.0)
        da = tl.zeros([BI, BJ], tl.float32)
        for out in range(0, C, BO):
            o = out + tl.arange(0, BO)
            of_m = image * C * C + (head * D + j[:, None]) * C + o[None, :]
            dm = tl.load(dfused + of_m, mask=(j[:, None] < D) & (o[None, :] < C), other=0.0)  # [BJ, BO]
            of_p = o[None, :] * C + head * D + i[:, None]
            in_p = (i[:, None] < D) & (o[None, :] < C)
            p = tl.load(projection + of_p, mask=in_p, other=0.0).to(tl.float32)
            da = tl.dot(p, tl.trans(dm), da, input_precision="ieee")
            tl.store(dprojection + image * C * C + of_p, tl.dot(a, dm, input_precision="ieee"), mask=in_p)

        g = tl.load(gram + matrix, mask=in_matrix, other=0.0)
        of_q, of_q_squared = _inverse(gram + C * D + head * D + i, i < D, NORMALISED)
        dz = a * (da - tl.sum(a * da, 1)[:, None]) * of_q[:, None] * of_k[None, :]  # of the softmax's input, / scale
        to_temperature += tl.sum(dz * g, 0)
        mixed = (dz * scale).to(kind)
        through = mixed.to(tl.float32) * g
        through_k += tl.sum(through, 0)
        diagonal = -tl.sum(through, 1) * of_q_squared
        diagonal = tl.where(i[:, None] == j[None, :], diagonal[:, None], 0.0)
        q_row = i[:, None] * 2 * D + j[None, :]
        tl.store(mix + q_row, diagonal.to(kind), mask=in_matrix)
        tl.store(mix + q_row + D, mixed, mask=in_matrix)
        tl.store(mix + (D + j[None, :]) * 2 * D + i[:, None], mixed, mask=in_matrix)

    diagonal = -through_k * of_k_squared
    for first in range(0, D, BI):
        i = first + tl.arange(0, BI)
        tile = tl.where(i[:, None] == j[None, :], diagonal[None, :], 0.0)
        to = mix + (D + i[:, None]) * 2 * D + D + j[None, :]
        tl.store(to, tile.to(kind), mask=(i[:, None] < D) & (j[None, :] < D))
    if NORMALISED:
        tl.store(dtemperature + image * HEADS + head, tl.sum(to_temperature, 0))
