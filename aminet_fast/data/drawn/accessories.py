"""Glasses and hats."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, mix, smooth


def draw_glasses(canvas: Canvas) -> None:
    p, rng = canvas.person, canvas.rng
    if p.glasses == "none":
        return
    frame = [(24, 22, 24), (92, 52, 28), (150, 150, 158), (196, 160, 80), (40, 50, 110), (130, 24, 34)][
        int(rng.integers(0, 6))
    ]
    width = {"round": 0.03, "square": 0.055, "rimless": 0.014, "sun": 0.045}[p.glasses] * float(rng.uniform(0.8, 1.3))
    rx, ry = float(rng.uniform(0.34, 0.4)), float(rng.uniform(0.26, 0.34))
    power = 2.0 if p.glasses == "round" else 3.4
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(t), np.sin(t)
    for side in (-1, 1):
        x = side * 0.5 + rx * np.sign(c) * np.abs(c) ** (2 / power)
        y = 0.05 + ry * np.sign(s) * np.abs(s) ** (2 / power)
        rim = np.stack([x, y], 1)
        _draw_lens(canvas, rim, side, dark=p.glasses == "sun")
        closed = np.concatenate([rim, rim[:2]])
        canvas.stroke(closed, frame, width, 1.15)
        canvas.stroke(closed[22:32] + np.array([0, -0.008]), mix(frame, (255, 255, 255), 0.45), 0.012, 1.15)
        canvas.stroke([(side * (0.5 + rx), -0.03), (side * 1.0, -0.06)], frame, width, 1.05)
        canvas.stroke([(side * 1.0, -0.06), (side * 1.12, -0.08)], frame, width, 0.5)
    canvas.stroke(smooth([(-0.5 + rx, 0.0), (0, -0.06), (0.5 - rx, 0.0)]), frame, max(width, 0.025), 1.2)


def _draw_lens(canvas: Canvas, rim: np.ndarray, side: int, dark: bool) -> None:
    """Tint, and the reflection of a window."""
    if dark:
        canvas.tint(rim, (26, 24, 30), 228, 1.15)
    else:
        canvas.tint(rim, (205, 222, 240), 22, 1.15)
    if canvas.rng.random() < 0.7:
        x = side * 0.5 - 0.12
        glare = [(x, -0.2), (x + 0.12, -0.2), (x - 0.03, 0.22), (x - 0.13, 0.2)]
        canvas.tint(glare, (245, 250, 255), 85, 1.15)


def draw_hat(canvas: Canvas) -> None:
    p, rng = canvas.person, canvas.rng
    if p.hat == "none":
        return
    r, g, b = rng.uniform(20, 235, 3)
    color = (float(r), float(g), float(b))
    other = mix(color, (255, 255, 255) if sum(color) < 330 else (20, 20, 30), 0.65)
    if p.hat == "band":
        band = smooth([(-1.12, -0.75), (-0.6, -1.1), (0, -1.2), (0.6, -1.1), (1.12, -0.75)])
        canvas.stroke(band, color, 0.2, 0.5)
        for x in np.linspace(-0.95, 0.95, 12):
            canvas.disc(float(x), float(-1.2 + 0.42 * x * x), 0.035, other, 0.55)
        return
    wide = p.cheek + 0.16
    brow = -0.78
    high = -2.15 if p.hat == "beanie" else -2.0
    dome = smooth(
        [
            (-wide, brow + 0.1),
            (-wide, -1.2),
            (-0.75, high + 0.3),
            (0, high),
            (0.75, high + 0.3),
            (wide, -1.2),
            (wide, brow + 0.1),
        ]
    )
    base = smooth([(wide, brow + 0.1), (0.5, brow - 0.05), (0, brow - 0.08), (-0.5, brow - 0.05), (-wide, brow + 0.1)])
    shade = 0.4 + 0.7 * canvas.lambert(0, -0.9, 1.5, 1.5, 0.35)
    canvas.paste_soft(canvas.soft(color, shade), canvas.mask(np.concatenate([dome, base]), 0.5))
    {"beanie": _knit, "cap": _visor, "brim": _brim}[p.hat](canvas, color, other, wide, brow)


def _knit(canvas: Canvas, color: tuple[float, ...], other: tuple[float, ...], wide: float, brow: float) -> None:
    for x in np.linspace(-wide, wide, 34):
        top = np.array([0.75 * x, -1.05 - 0.95 * np.sqrt(max(0.0, 1 - (x / wide) ** 2))])
        canvas.stroke([(x, brow + 0.08 - 0.15 * (1 - (x / wide) ** 2)), top], mix(color, (0, 0, 0), 0.28), 0.014, 0.5)
    for k in range(3):
        y = brow - 0.02 - 0.1 * k
        canvas.stroke(
            smooth([(-wide, y + 0.1), (0, y - 0.05), (wide, y + 0.1)]),
            other if k % 2 else mix(color, other, 0.25),
            0.07,
            0.5,
        )


def _visor(canvas: Canvas, color: tuple[float, ...], other: tuple[float, ...], wide: float, brow: float) -> None:
    for x in (-0.45, 0.0, 0.45):
        canvas.stroke(smooth([(x, brow - 0.05), (0.8 * x, -1.5), (0, -2.0)]), mix(color, (0, 0, 0), 0.35), 0.016, 0.6)
    visor = smooth(
        [
            (-0.95, brow + 0.02),
            (-0.6, brow + 0.2),
            (0, brow + 0.28),
            (0.6, brow + 0.2),
            (0.95, brow + 0.02),
            (0, brow - 0.12),
        ],
        closed=True,
    )
    canvas.fill(visor, mix(color, (0, 0, 0), 0.35), 1.3)
    canvas.stroke(
        smooth([(-0.6, brow + 0.16), (0, brow + 0.24), (0.6, brow + 0.16)]),
        mix(color, other, 0.4),
        0.016,
        1.3,
    )
    canvas.disc(0.0, -1.35, 0.2, other, 0.9)
    canvas.stroke([(-0.09, -1.27), (0.0, -1.45), (0.09, -1.27)], color, 0.05, 0.9)


def _brim(canvas: Canvas, color: tuple[float, ...], other: tuple[float, ...], wide: float, brow: float) -> None:
    canvas.stroke(smooth([(-wide, brow - 0.1), (0, brow - 0.25), (wide, brow - 0.1)]), other, 0.2, 0.5)
    brim = smooth(
        [
            (-1.9, brow + 0.12),
            (-0.9, brow - 0.12),
            (0.9, brow - 0.12),
            (1.9, brow + 0.12),
            (0.8, brow + 0.16),
            (-0.8, brow + 0.16),
        ],
        closed=True,
    )
    canvas.fill(brim, mix(color, (0, 0, 0), 0.18), 0.7)
    canvas.stroke(brim[16:24], mix(color, (255, 255, 255), 0.3), 0.016, 0.7)
