"""hourglass_gate's passes over the maps a and b: what each tap makes of a pixel, and the gradients."""

from __future__ import annotations

import triton
import triton.language as tl

from ._common import zeros
from ._gates import located


@triton.jit
def normed(values, scale, shift, element, here, channel, known):
    """The values and scale [1, channels]; values * scale + shift; what is not there is zero."""
    v = tl.load(values + element, here, 0).to(tl.float32)
    by = tl.load(scale + channel, known, 0).to(tl.float32)[None, :]
    return v, by, v * by + tl.load(shift + channel, known, 0).to(tl.float32)[None, :]


@triton.jit
def activated(v, slope):
    return tl.where(v > 0, v, v * slope)


@triton.jit
def folded(v, ROWS: tl.constexpr):
    """[rows, channels] added up to [ROWS, channels], within a thread where ROWS is what all threads hold at once."""
    return tl.sum(tl.reshape(v, (v.shape[0] // ROWS, ROWS, v.shape[1])), 0)


@triton.jit
def tap_products(
    a,
    a_scale,
    a_shift,
    b,
    b_scale,
    b_shift,
    weight,
    products,
    slope,
    pixels,
    M: tl.constexpr,
    STRIDES: tl.constexpr,
    PIXELS: tl.constexpr,
    MAPS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """products [9][pixels]: of act(norm(a)) + act(norm(b)) at a pixel with each tap's weights [1, M, 3, 3]."""
    first = tl.program_id(0).to(tl.int64) * PIXELS
    pixel = tl.arange(0, PIXELS)
    live = (first + pixel < pixels)[:, None]
    tap = tl.arange(0, 16)[None, :]
    total = tl.zeros((PIXELS, 16), tl.float32)
    for start in range(0, M, MAPS):
        channel = start + tl.arange(0, MAPS)
        known = channel < M
        here = live & known[None, :]
        element = first * M + (pixel[:, None] * M + channel[None, :])
        _, _, of_a = normed(a, a_scale, a_shift, element, here, channel, known)
        _, _, of_b = normed(b, b_scale, b_shift, element, here, channel, known)
        s = activated(of_a, slope) + activated(of_b, slope)
        at = channel[:, None] * STRIDES[1] + (tap // 3 * STRIDES[2] + tap % 3 * STRIDES[3])
        w = tl.load(weight + at, known[:, None] & (tap < 9), 0)
        total = tl.dot(s, w.to(tl.float32), total, input_precision=PRECISION)
    tl.store(products + tap.to(tl.int64) * pixels + (first + pixel)[:, None], total, live & (tap < 9))


@triton.jit
def _sources(i, size, TAP: tl.constexpr):
    """Which outputs saw the indices i of an axis through tap 0, 1 or 2: a neighbour, and at a border its mirror image.

    Two times an index and whether it is there; the middle tap has no mirror image.
    """
    near = i - TAP + 1
    there = (near >= 0) & (near < size)
    if TAP == 0:
        # The index before the first reflects to 1, the one behind the last to size - 2, where there are such.
        return near, there, i * 0, i == tl.minimum(1, size - 1)
    return near, there, i * 0 + size - 1, i == tl.maximum(0, size - 2)


@triton.jit
def _through(plane, y, x, live, height, width, TAP: tl.constexpr):
    """What reaches pixels through a tap of the 3x3 kernel: the four ways of two axes, one where the tap is a middle."""
    row, there, row2, there2 = _sources(y, height, TAP // 3)
    column, here, column2, here2 = _sources(x, width, TAP % 3)
    total = tl.load(plane + row * width + column, live & there & here, 0)
    if TAP // 3 != 1:
        total += tl.load(plane + row2 * width + column, live & there2 & here, 0)
    if TAP % 3 != 1:
        total += tl.load(plane + row * width + column2, live & there & here2, 0)
    if (TAP // 3 != 1) and (TAP % 3 != 1):
        total += tl.load(plane + row2 * width + column2, live & there2 & here2, 0)
    return total


@triton.jit
def maps_backward(
    dlogit,
    a,
    a_scale,
    a_shift,
    b,
    b_scale,
    b_shift,
    weight,
    da,
    db,
    partial,
    slope,
    pixels,
    steps,
    height,
    width,
    M: tl.constexpr,
    STRIDES: tl.constexpr,
    STEP: tl.constexpr,
    MAPS: tl.constexpr,
):
    """da, db, and the sums over steps * STEP pixels, partial [programs][13][M].

    They are those for the nine taps of weight, for a's scale and shift, and for b's. Each thread keeps those of its own
    channels and pixels until the end; nine multiply-adds a number for ds and nine for the weight's are less than its
    bytes take, and without products of matrices nothing waits for shared memory.
    """
    channel = tl.program_id(1) * MAPS + tl.arange(0, MAPS)
    known = channel < M
    sums = zeros(13, (STEP, MAPS), tl.float32)
    for step in range(steps):
        first = (tl.program_id(0).to(tl.int64) * steps + step) * STEP
        pixel = tl.arange(0, STEP)
        live = first + pixel < pixels
        here = live[:, None] & known[None, :]
        element = first * M + (pixel[:, None] * M + channel[None, :])
        from_a, by_a, of_a = normed(a, a_scale, a_shift, element, here, channel, known)
        from_b, by_b, of_b = normed(b, b_scale, b_shift, element, here, channel, known)
        s = activated(of_a, slope) + activated(of_b, slope)
        ds = tl.zeros((STEP, MAPS), tl.float32)
        image, further, y, x = located(first, height, width, STEP)
        plane = dlogit + image * height * width + further * (height * width)
        of_weight = ()
        for tap in tl.static_range(9):
            reaching = _through(plane, y, x, live, height, width, tap)[:, None]
            w = tl.load(weight + channel * STRIDES[1] + (tap // 3 * STRIDES[2] + tap % 3 * STRIDES[3]), known, 0)
            w = w.to(tl.float32)[None, :]
            ds = tl.fma(reaching, w, ds)
            of_weight = of_weight + (tl.fma(reaching, s, sums[tap]),)  # noqa: RUF005
        of_a = tl.where(of_a > 0, ds, ds * slope)
        of_b = tl.where(of_b > 0, ds, ds * slope)
        tl.store(da + element, of_a * by_a, here)
        tl.store(db + element, of_b * by_b, here)
        of_norms = (sums[9] + of_a * from_a, sums[10] + of_a, sums[11] + of_b * from_b, sums[12] + of_b)
        sums = of_weight + of_norms
    partial += tl.program_id(0).to(tl.int64) * 13 * M
    for i in tl.static_range(13):
        tl.store(partial + i * M + channel, tl.sum(sums[i], 0), known)
