"""Hair: its mass, its strands, and beards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .canvas import Canvas, mix, smooth
from .head import face_outline

DARK = (14, 10, 10)
LONG = ("long", "long_wavy", "bob")
# how far the hair stands off the head
_LIFT = {
    "short": 0.14,
    "side": 0.2,
    "back": 0.22,
    "fringe": 0.2,
    "curly": 0.26,
    "afro": 0.62,
    "buzz": 0.03,
    "bald": 0.0,
    "long": 0.2,
    "long_wavy": 0.24,
    "bob": 0.22,
    "bun": 0.12,
}


def _strands(canvas: Canvas, paths: np.ndarray | Sequence[np.ndarray], z: float | None, width: float = 0.016) -> None:
    """Strands [m, n, 2], or m of [n, 2]: each has its shade, and one in a few catches the light."""
    p, rng = canvas.person, canvas.rng
    t = rng.random((len(paths), 1))
    lit = rng.random((len(paths), 1)) < 0.36
    share = np.where(lit, 0.05 + 0.3 * t * t, 0.08 + 0.55 * t)
    canvas.strands(paths, p.hair + share * (np.where(lit, (255, 244, 226), DARK) - p.hair), width, z)


def _between(rng: np.random.Generator, low: float, high: float, count: int) -> np.ndarray:
    """Uniform numbers [count, 1]: one for each strand, to be spread over its points."""
    return rng.uniform(low, high, (count, 1))


def _mass(canvas: Canvas, outline: np.ndarray, z: float) -> None:
    """The hair's body, shaded like the head under it."""
    shade = 0.42 + 0.6 * canvas.lambert(0, -0.2, 1.5, 1.9, 0.35)
    canvas.paste_soft(canvas.soft(canvas.person.hair, shade), canvas.mask(outline, z))


def _rims(canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    """Hairline and silhouette, each [n, 2] from the left ear over the head to the right one."""
    p, rng = canvas.person, canvas.rng
    lift = _LIFT[p.style] * float(rng.uniform(0.8, 1.25))
    wide = p.cheek + 0.06 + 0.55 * lift
    low = 0.15 if p.style in ("short", "side", "back", "buzz", "bun", "fringe") else 0.5
    top = -1.62 - lift
    right = [(0.72, top + 0.32), (wide - 0.05, -0.85), (wide, -0.3), (wide - 0.05, low)]
    outer = smooth([*[(-x, y) for x, y in right[::-1]], (0.0, top), *right])
    line = p.forehead
    temple = 0.82 - (0.12 * p.age if p.beard != "none" else 0)
    peak = float(rng.uniform(-0.05, 0.1))
    if p.style in ("fringe", "bob"):
        line, peak = -0.52 + float(rng.uniform(-0.1, 0.05)), 0.0
    part = float(rng.uniform(-0.5, 0.5)) if p.style in ("side", "long", "long_wavy") else 0.0
    rise = 0.1 if part else 0.0
    right = [
        (0.5, line + 0.05 + rise),
        (temple + 0.04, -0.62),
        (p.cheek - 0.07, -0.25),
        (p.cheek + 0.01, low),
    ]
    inner = smooth([*[(-x, y) for x, y in right[::-1]], (part, line + peak - rise), *right])
    return inner, outer


def draw_back_hair(canvas: Canvas) -> None:
    """What hangs behind the face and neck, and a bun."""
    p, rng = canvas.person, canvas.rng
    if p.style == "bun":
        x, y, r = float(rng.normal(0, 0.15)), -1.95, float(rng.uniform(0.35, 0.5))
        ring = np.linspace(0, 2 * np.pi, 24)
        _mass(canvas, np.stack([x + r * np.cos(ring), y + 0.9 * r * np.sin(ring)], 1), 0.2)
        k = r * np.linspace(0.15, 0.95, 16)[:, None]
        arc = np.linspace(rng.uniform(0, 6, 16), rng.uniform(7, 10, 16), 12, axis=1)  # [16, 12]
        _strands(canvas, np.stack([x + k * np.cos(arc), y + 0.9 * k * np.sin(arc)], 2), 0.2)
    if p.style not in LONG:
        return
    end = 1.35 if p.style == "bob" else float(rng.uniform(1.9, 3.2))
    wide = p.cheek + float(rng.uniform(0.2, 0.42))
    half = [(0.0, -1.8), (0.8, -1.45), (wide, -0.5), (wide + 0.08, 0.6), (wide, end), (0.5, end + 0.1)]
    _mass(canvas, smooth([*half, *[(-x, y) for x, y in half[:0:-1]]], closed=True), 0.2)
    wave = 0.08 if p.style == "long_wavy" else 0.015
    m = 110
    side = np.where(rng.random((m, 1)) < 0.5, 1, -1)
    down = np.linspace(rng.uniform(-1.0, 0.8, m), end - rng.uniform(0, 0.3, m), 12, axis=1)  # [m, 12]
    bend = wave * np.sin(down * _between(rng, 4, 6, m) + _between(rng, 0, 6, m)) * np.linspace(0.3, 1, 12)
    _strands(canvas, np.stack([side * (_between(rng, 0.62, 1.0, m) * wide + bend), down], 2), 0.2)


def draw_hair(canvas: Canvas) -> None:
    p, rng = canvas.person, canvas.rng
    if p.style == "bald":
        return
    inner, outer = _rims(canvas)
    if p.style == "buzz":
        _draw_buzz(canvas, inner, outer)
        return
    if p.style in ("short", "curly", "afro"):
        outer = outer + rng.normal(0, 0.018 if p.style == "short" else 0.035, outer.shape)
    if p.style in ("short", "fringe", "bob"):
        inner = inner + rng.normal(0, 1, inner.shape) * (0.0, 0.03)
    _mass(canvas, np.concatenate([outer, inner[::-1]]), 0.5)
    draw = {"curly": _draw_curls, "afro": _draw_curls, "fringe": _draw_fringe, "bob": _draw_fringe,
            "short": _draw_up, "back": _draw_up, "bun": _draw_up}.get(p.style, _draw_combed)  # fmt: skip
    draw(canvas, inner, outer)
    if p.style in LONG:
        _draw_locks(canvas, inner)
    if p.style in ("short", "side", "back") and p.beard in ("none", "stubble"):
        root = rng.uniform((p.cheek - 0.07, -0.3), (p.cheek, 0.3), (28, 2))  # sideburns
        paths = np.stack([root, root + np.array([-0.01, 0.14])], 1)
        paths[:14, :, 0] *= -1
        _strands(canvas, paths, 0.45, 0.012)


def _draw_combed(canvas: Canvas, inner: np.ndarray, outer: np.ndarray) -> None:
    """Strands from the part along the head to both ears."""
    rng, n, m = canvas.rng, len(inner), 150
    part = int(n * rng.uniform(0.38, 0.62))
    left = rng.random(m) < part / n
    start = np.where(left, rng.integers(0, part, m), part)
    stop = np.where(left, part, rng.integers(part, n, m))
    whole = rng.random(m) < 0.5
    start[whole & left], stop[whole & ~left] = 0, n
    long = stop - start >= 6
    start, stop = start[long], stop[long]
    t = np.linspace(0, 1, 11)
    i = np.rint(start[:, None] + t * (stop - 1 - start)[:, None]).astype(int)  # [m, 11]
    share = _between(rng, 0.02, 1.0, len(i))
    drift = np.clip(share + rng.normal(0, 0.15, share.shape), 0, 1) - share
    share = (share + t * drift)[..., None]
    _strands(canvas, inner[i] * (1 - share) + outer[i] * share, 0.5)


def _draw_up(canvas: Canvas, inner: np.ndarray, outer: np.ndarray) -> None:
    """Strands from the hairline up and back."""
    rng, m = canvas.rng, 190
    lean = float(rng.normal(0, 0.3))
    i = rng.integers(0, len(inner), m)
    ends = np.sort(rng.uniform((0, 0.3), (0.6, 1.04), (m, 2)), axis=1)
    t = np.linspace(ends[:, 0], ends[:, 1], 5, axis=1)[..., None]  # [m, 5, 1]
    paths = inner[i][:, None] * (1 - t) + outer[i][:, None] * t
    paths[..., 0] += lean * (t[..., 0] ** 2) * 0.4
    _strands(canvas, paths + rng.normal(0, 0.008, paths.shape), 0.5)


def _draw_fringe(canvas: Canvas, inner: np.ndarray, outer: np.ndarray) -> None:
    """Strands from the crown down to the brows and ears."""
    rng, m = canvas.rng, 190
    crown = np.array([rng.normal(0, 0.1), -1.62])
    i = rng.integers(0, len(inner), m)
    end = inner[i]
    end[:, 1] += rng.uniform(-0.05, 0.1, m)
    over = 0.45 * crown + 0.55 * outer[i] + rng.normal(0, 0.05, (m, 2))
    middle = np.where(np.abs(end[:, :1]) < 0.7, 0.5 * crown + 0.5 * end + (0, -0.12), over)
    start = crown + rng.normal(0, 0.06, (m, 2))
    _strands(canvas, smooth(np.stack([start, middle, end], 1))[:, ::3], 0.6)


def _draw_curls(canvas: Canvas, inner: np.ndarray, outer: np.ndarray) -> None:
    """Many small arcs, and curls over the rims."""
    rng = canvas.rng
    m, size = (300, 0.045) if canvas.person.style == "afro" else (190, 0.085)
    i = rng.integers(0, len(inner), m)
    share = _between(rng, -0.03, 1.03, m)
    center = inner[i] * (1 - share) + outer[i] * share
    arc = _between(rng, 2.5, 5.5, m) * np.linspace(0, 1, 7) + _between(rng, 0, 6, m)  # [m, 7]
    r = size * rng.uniform(0.6, 1.4, (m, 1, 1))
    _strands(canvas, center[:, None] + r * np.stack([np.cos(arc), np.sin(arc)], 2), 0.5, 0.018)


def _draw_locks(canvas: Canvas, inner: np.ndarray) -> None:
    """Hair that falls in front of the cheeks and shoulders."""
    p, rng = canvas.person, canvas.rng
    wave = 0.07 if p.style == "long_wavy" else 0.015
    end = 1.2 if p.style == "bob" else float(rng.uniform(1.6, 2.6))
    for side in (-1, 1):
        if rng.random() < 0.25:
            continue
        y = np.linspace(-0.75, end, 14)
        edge = p.cheek - 0.09 + wave * np.sin(y * 5 + rng.uniform(0, 6)) + 0.05 * (y > 0.6)
        far = edge + np.linspace(0.12, 0.34, 14)
        _mass(canvas, np.concatenate([np.stack([side * edge, y], 1), np.stack([side * far, y], 1)[::-1]]), 0.5)
        share = _between(rng, -0.04, 1.0, 34)
        x = side * (edge * (1 - share) + far * share + rng.normal(0, 0.01, (34, 1)))
        paths = np.stack([x, np.broadcast_to(y, x.shape)], 2)  # [34, 14, 2]
        _strands(canvas, [path[first:] for path, first in zip(paths, rng.integers(0, 6, 34), strict=True)], 0.5)


def _draw_buzz(canvas: Canvas, inner: np.ndarray, outer: np.ndarray) -> None:
    p, rng = canvas.person, canvas.rng
    shade = 0.4 + 0.6 * canvas.lambert(0, -0.2, 1.5, 1.9, 0.35)
    pixels = canvas.soft(mix(p.hair, p.skin, 0.3), shade)
    canvas.paste_soft(pixels, canvas.mask(np.concatenate([outer, inner[::-1]]), 0.5).point(lambda v: v * 215 // 255))
    where = rng.integers(0, len(inner), 420)
    share = rng.uniform(-0.06, 1, (420, 1))
    _stipple(canvas, inner[where] * (1 - share) + outer[where] * share)


def _stipple(canvas: Canvas, points: np.ndarray) -> None:
    p, rng = canvas.person, canvas.rng
    color = np.asarray(mix(p.hair, DARK, 0.3))
    shades = color + _between(rng, 0, 0.45, len(points)) * (p.skin - color)
    canvas.strands(np.stack([points, points + rng.normal(0, 0.02, points.shape)], 1), shades, 0.01, 0.5)


def draw_beard(canvas: Canvas) -> None:
    p, rng = canvas.person, canvas.rng
    if p.beard == "none":
        return
    outline = face_outline(canvas)
    w = p.mouth_width * (1 + 0.2 * max(0.0, p.smile))
    spots = rng.uniform((-1, 0.2), (1, p.chin + 0.05), (1500, 2))
    x, y = np.abs(spots[:, 0]), spots[:, 1]
    low = outline[outline[:, 1] > 0]
    order = np.argsort(low[:, 1])
    edge = np.interp(y, low[order, 1], np.abs(low[order, 0]))
    jaw = (x < edge) & (y > 0.55 + 0.5 * (1 - x / p.cheek)) & ((x > w + 0.04) | (y > 1.42))
    above = (y > p.nose_length + 0.14) & (y < 0.98 + 0.12 * x) & (x < w + 0.06)
    chin = (x < 0.3) & (y > 1.38) & (x < edge) | (x > w + 0.02) & (x < w + 0.12) & (y > 0.95) & (y < 1.5)
    keep = {"stubble": jaw | above, "full": jaw | above, "moustache": above, "goatee": above | chin}[p.beard]
    if p.beard == "stubble":
        _stipple(canvas, spots[keep][:330])
        return
    roots = np.repeat(spots[keep], 2, axis=0)[:620]
    roots = roots + rng.normal(0, 0.015, roots.shape)
    out = np.stack([0.12 * roots[:, 0], np.where(roots[:, 1] > 1.0, 0.11, 0.07)], 1)
    _strands(canvas, np.stack([roots, roots + out * _between(rng, 0.5, 1.2, len(roots))], 1), None, 0.018)
