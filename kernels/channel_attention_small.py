"""channel_attention's matrices of channels, between the passes over the pixels; everything in float32.

Heads have D channels each: G = q k^T and attn are [D, D] a head, M = projection * blockdiag(attn) is [C, C] an image.
Programs go down a head's rows BI at a time; BJ covers all D columns. All of it is some MFLOP an image: latency only.
What the passes over the pixels left in parts, a split of an image each, is added up where it is loaded.
"""

from __future__ import annotations

import triton
import triton.language as tl

# torch.nn.functional.normalize's
SMALLEST_NORM = tl.constexpr(1e-12)


@triton.jit
def _added(parts, at, inside, splits, length: tl.constexpr, AT_ONCE: tl.constexpr):
    """The sum of `splits` parts of `length` numbers, at the offsets `at`, a vector or a matrix; some loaded at once."""
    total = tl.zeros_like(at).to(tl.float32)
    for first in range(0, splits, AT_ONCE):
        split = first + tl.arange(0, AT_ONCE)
        for _ in tl.static_range(len(at.shape)):
            split = tl.expand_dims(split, -1)
        there = tl.expand_dims(inside, 0) & (split < splits)
        total += tl.sum(tl.load(parts + split.to(tl.int64) * length + tl.expand_dims(at, 0), mask=there, other=0.0), 0)
    return total


@triton.jit
def _inverse(squares, NORMALISED: tl.constexpr):
    """1 / max(norm, smallest), and its square where the norm is the larger, else 0: no gradient passes it then."""
    norm = tl.sqrt(squares)
    if NORMALISED:
        inverse = 1.0 / tl.maximum(norm, SMALLEST_NORM)
        squared = tl.where(norm < SMALLEST_NORM, 0.0, inverse * inverse)
    else:
        inverse = tl.zeros_like(norm) + 1.0
        squared = tl.zeros_like(norm)
    return inverse, squared


@triton.jit
def _lay_out(weight, taps, head, C: tl.constexpr, D: tl.constexpr, BJ: tl.constexpr):
    """taps [9, 3C] of the 3x3's weight [3C, 9], of a head's channels: neighbours for who needs them again and again."""
    j = tl.arange(0, BJ)
    for part in tl.static_range(3):
        channel = part * C + head * D + j
        for tap in tl.static_range(9):
            tl.store(taps + tap * 3 * C + channel, tl.load(weight + channel * 9 + tap, mask=j < D), mask=j < D)


@triton.jit(do_not_specialize=["splits"])  # it differs from batch to batch
def softmax_kernel(
    parts,  # [N, splits, C * D + 2C]: q k^T, squared norms of q's channels, of k's; to be added up
    temperature,  # [HEADS]
    projection,  # [C, C]
    dw_weight,  # [3C, 9]
    gram,  # [N, C * D + 2C]: their sum; with STORE
    attn,  # [N, C, D]; with STORE
    fused,  # [N, C in, C out], data's dtype: M^T
    taps,  # [9, 3C]: dw_weight for project_kernel
    splits,
    C: tl.constexpr,
    D: tl.constexpr,
    HEADS,
    scale,  # without temperature
    NORMALISED: tl.constexpr,
    STORE: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    BO: tl.constexpr,
    AT_ONCE: tl.constexpr,  # parts
):
    image = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    length: tl.constexpr = C * D + 2 * C
    parts += image * splits * length
    gram += image * length
    store = STORE & (tl.program_id(1) == 0)
    if (image == 0) & (tl.program_id(1) == 0):
        _lay_out(dw_weight, taps, head, C, D, BJ)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    j = tl.arange(0, BJ)
    at_k = C * D + C + head * D + j
    k_squares = _added(parts, at_k, j < D, splits, length, AT_ONCE)
    of_k, _k = _inverse(k_squares, NORMALISED)
    if store:
        tl.store(gram + at_k, k_squares, mask=j < D)
    if NORMALISED:
        scale = tl.load(temperature + head).to(tl.float32)
    product = tl.zeros([BJ, BO], tl.float32)
    for first in range(0, D, BI):
        i = first + tl.arange(0, BI)
        matrix = (head * D + i[:, None]) * D + j[None, :]
        in_matrix = (i[:, None] < D) & (j[None, :] < D)
        at_q = C * D + head * D + i
        q_squares = _added(parts, at_q, i < D, splits, length, AT_ONCE)
        of_q, _q = _inverse(q_squares, NORMALISED)
        g = _added(parts, matrix, in_matrix, splits, length, AT_ONCE)
        z = g * of_q[:, None] * of_k[None, :] * scale
        z = tl.where(j[None, :] < D, z, -float("inf"))
        e = tl.exp(z - tl.max(z, 1)[:, None])
        a = e / tl.sum(e, 1)[:, None]
        if store:
            tl.store(gram + at_q, q_squares, mask=i < D)
            tl.store(gram + matrix, g, mask=in_matrix)
            tl.store(attn + image * C * D + matrix, a, mask=in_matrix)
        of_p = o[None, :] * C + head * D + i[:, None]
        p = tl.load(projection + of_p, mask=(i[:, None] < D) & (o[None, :] < C), other=0.0).to(tl.float32)
        product = tl.dot(tl.trans(a), p, product, input_precision="ieee")
    to = fused + image * C * C + (head * D + j[:, None]) * C + o[None, :]
    tl.store(to, product.to(fused.dtype.element_ty), mask=(j[:, None] < D) & (o[None, :] < C))


@triton.jit(do_not_specialize=["splits"])
def dsoftmax_kernel(
    parts,  # [N, splits, C in, C out]: sums of v dy^T, to be added up to the gradient of M^T
    projection,  # [C, C]
    gram,  # [N, C * D + 2C]
    attn,  # [N, C, D]
    temperature,  # [HEADS]
    mix,  # [N, HEADS, 2, D, 2, D], data's dtype: [dq | dk] = [q | k] mix
    dprojection,  # [N, C out, C in]
    dtemperature,  # [N, HEADS]; with NORMALISED
    splits,
    C: tl.constexpr,
    D: tl.constexpr,
    HEADS,
    scale,  # without temperature
    NORMALISED: tl.constexpr,
    BI: tl.constexpr,
    BJ: tl.constexpr,
    BO: tl.constexpr,
    AT_ONCE: tl.constexpr,  # parts
):
    image = (tl.program_id(0) // HEADS).to(tl.int64)
    head = tl.program_id(0) % HEADS
    gram += image * (C * D + 2 * C)
    parts += image * splits * C * C
    mix += (image * HEADS + head) * 4 * D * D
    kind = mix.dtype.element_ty
    j = tl.arange(0, BJ)
    of_k, of_k_squared = _inverse(tl.load(gram + C * D + C + head * D + j, mask=j < D, other=1.0), NORMALISED)
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
            of_m = (head * D + j[:, None]) * C + o[None, :]
            dm = _added(parts, of_m, (j[:, None] < D) & (o[None, :] < C), splits, C * C, AT_ONCE)  # [BJ, BO]
            of_p = o[None, :] * C + head * D + i[:, None]
            in_p = (i[:, None] < D) & (o[None, :] < C)
            p = tl.load(projection + of_p, mask=in_p, other=0.0).to(tl.float32)
            da = tl.dot(p, tl.trans(dm), da, input_precision="ieee")
            tl.store(dprojection + image * C * C + of_p, tl.dot(a, dm, input_precision="ieee"), mask=in_p)

        g = tl.load(gram + matrix, mask=in_matrix, other=0.0)
        q_squares = tl.load(gram + C * D + head * D + i, mask=i < D, other=1.0)
        of_q, of_q_squared = _inverse(q_squares, NORMALISED)
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
