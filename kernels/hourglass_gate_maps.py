"""hourglass_gate's passes over the maps a and b: what each tap makes of a pixel, and the gradients."""

from __future__ import annotations

import triton
import triton.language as tl

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
    PIXELS: tl.constexpr,
    MAPS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """products [9][pixels]: of act(norm(a)) + act(norm(b)) at a pixel with each tap's weights."""
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
        w = tl.load(weight + channel[:, None] * 9 + tap, known[:, None] & (tap < 9), 0)
        kind = tl.float32
        total = tl.dot(s.to(kind), w.to(kind), total, input_precision=PRECISION)
    tl.store(products + tap.to(tl.int64) * pixels + (first + pixel)[:, None], total, live & (tap < 9))


@triton.jit
def _sources(i, tap, size):
    """Which outputs saw index i of an axis through a tap (0, 1, 2): its neighbour, and at a border its mirror image.

    Two times an index and whether it is there, [pixels, taps] each.
    """
    near = i - tap + 1
    far = tl.where(tap == 0, 0, size - 1)
    # The index before the first reflects to 1, the one behind the last to size - 2, where there are such.
    mirrored = ((tap == 0) & (i == tl.minimum(1, size - 1))) | ((tap == 2) & (i == tl.maximum(0, size - 2)))
    return near, (near >= 0) & (near < size), far, mirrored


@triton.jit
def _reaching(dlogit, first, pixels, height, width, PIXELS: tl.constexpr):
    """What reaches the pixels from `first` on through each tap [PIXELS, 16], nothing through those behind the ninth."""
    area = height * width
    image, further, y, x = located(first, height, width, PIXELS)
    tap = tl.arange(0, 16)[None, :]
    live = (first + tl.arange(0, PIXELS) < pixels)[:, None] & (tap < 9)
    row, there, row2, there2 = _sources(y[:, None], tap // 3, height)
    column, here, column2, here2 = _sources(x[:, None], tap % 3, width)
    plane = dlogit + image * area
    start = further[:, None] * area
    total = tl.load(plane + start + row * width + column, live & there & here, 0)
    total += tl.load(plane + start + row2 * width + column, live & there2 & here, 0)
    total += tl.load(plane + start + row * width + column2, live & there & here2, 0)
    total += tl.load(plane + start + row2 * width + column2, live & there2 & here2, 0)
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
    STEP: tl.constexpr,
    MAPS: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """da, db, and the sums over steps * STEP pixels, partial [programs][13][M].

    They are those for the nine taps of weight, for a's scale and shift, and for b's.
    """
    channel = tl.program_id(1) * MAPS + tl.arange(0, MAPS)
    known = channel < M
    kind = tl.float32
    tap = tl.arange(0, 16)[:, None]
    w = tl.load(weight + channel[None, :] * 9 + tap, known[None, :] & (tap < 9), 0).to(kind)
    of_weight = tl.zeros((16, MAPS), tl.float32)
    of_a_scale = tl.zeros((ROWS, MAPS), tl.float32)
    of_a_shift = tl.zeros((ROWS, MAPS), tl.float32)
    of_b_scale = tl.zeros((ROWS, MAPS), tl.float32)
    of_b_shift = tl.zeros((ROWS, MAPS), tl.float32)
    for step in range(steps):
        first = (tl.program_id(0).to(tl.int64) * steps + step) * STEP
        pixel = tl.arange(0, STEP)
        here = (first + pixel < pixels)[:, None] & known[None, :]
        element = first * M + (pixel[:, None] * M + channel[None, :])
        from_a, by_a, of_a = normed(a, a_scale, a_shift, element, here, channel, known)
        from_b, by_b, of_b = normed(b, b_scale, b_shift, element, here, channel, known)
        dq = _reaching(dlogit, first, pixels, height, width, STEP).to(kind)
        ds = tl.dot(dq, w, input_precision=PRECISION)
        s = activated(of_a, slope) + activated(of_b, slope)
        of_weight = tl.dot(tl.trans(dq), s.to(kind), of_weight, input_precision=PRECISION)
        d = tl.where(of_a > 0, ds, ds * slope)
        tl.store(da + element, d * by_a, here)
        of_a_scale += folded(d * from_a, ROWS)
        of_a_shift += folded(d, ROWS)
        d = tl.where(of_b > 0, ds, ds * slope)
        tl.store(db + element, d * by_b, here)
        of_b_scale += folded(d * from_b, ROWS)
        of_b_shift += folded(d, ROWS)
    partial += tl.program_id(0).to(tl.int64) * 13 * M
    tl.store(partial + tap * M + channel[None, :], of_weight, known[None, :] & (tap < 9))
    tl.store(partial + 9 * M + channel, tl.sum(of_a_scale, 0), known)
    tl.store(partial + 10 * M + channel, tl.sum(of_a_shift, 0), known)
    tl.store(partial + 11 * M + channel, tl.sum(of_b_scale, 0), known)
    tl.store(partial + 12 * M + channel, tl.sum(of_b_shift, 0), known)
