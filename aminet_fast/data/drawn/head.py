"""Head, ears, the skin's soft shading and its marks."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, mix, smooth


def face_outline(canvas: Canvas) -> np.ndarray:
    """The face's closed outline in face coordinates, chin to crown."""
    p = canvas.person
    half = [
        (0.0, p.chin), (0.26, p.chin - 0.03), (0.52 * p.jaw / 0.84, p.chin - 0.24), (p.jaw, 1.08),
        (p.cheek - 0.03, 0.45), (p.cheek, -0.1), (p.cheek - 0.02, -0.65), (0.82, -1.2), (0.42, -1.52),
    ]  # fmt: skip
    mirrored = [(-x, y) for x, y in half[:0:-1]]
    return smooth([*half, (0.0, -1.6), *mirrored], closed=True)


def skin_shade(canvas: Canvas) -> np.ndarray:
    """Light over the face, on the soft grid: an ellipsoid's, and what nose, sockets and cheeks add."""
    p = canvas.person
    shade = 0.28 + 0.86 * canvas.lambert(0, 0.1, 1.35, 2.0, 0.45)
    side = np.sign(p.light[0]) or 1.0
    shade -= 0.13 * (canvas.blob(-0.42, 0.02, 0.2, 0.13) + canvas.blob(0.42, 0.02, 0.2, 0.13))
    shade -= 0.07 * canvas.blob(-0.24 * side, 0.25, 0.08, 0.3)  # the side of the nose away from the light
    shade += 0.08 * canvas.blob(0, 0.3, 0.07, 0.3, 1.3)
    shade += 0.07 * canvas.blob(0.15 * side, -0.6, 0.45, 0.25)
    shade += 0.06 * (canvas.blob(0.6, 0.45, 0.22, 0.18) + canvas.blob(-0.6, 0.45, 0.22, 0.18))
    shade -= 0.10 * canvas.blob(0, p.nose_length + 0.12, 0.2, 0.06, 1.0)
    shade -= 0.10 * canvas.blob(0, 1.38, 0.28, 0.06)  # under the lower lip
    shade += 0.05 * canvas.blob(0, 1.55, 0.2, 0.1)
    shade -= (0.05 + 0.1 * p.age) * (canvas.blob(0.48, 0.2, 0.2, 0.05) + canvas.blob(-0.48, 0.2, 0.2, 0.05))
    return shade


def draw_head(canvas: Canvas) -> None:
    p, rng = canvas.person, canvas.rng
    pixels = canvas.soft(p.skin, skin_shade(canvas))
    flush = canvas.blob(0.62, 0.55, 0.26, 0.2) + canvas.blob(-0.62, 0.55, 0.26, 0.2)
    flush = flush + 0.8 * canvas.blob(0, 0.62, 0.16, 0.12, 1.3)
    strength = float(rng.uniform(0.05, 0.2) + 0.15 * p.makeup)
    red = np.asarray(mix(p.skin, (205, 70, 70), 0.75), np.float32)
    pixels += strength * flush[..., None] * (red - pixels)
    if p.beard != "none" or p.style in ("short", "side", "back", "buzz"):
        shadow = canvas.blob(0, 1.25, 0.7, 0.4)  # where a beard would grow
        pixels += (
            (0.10 if p.beard == "none" else 0.22) * shadow[..., None] * (np.float32(60) - pixels) * (p.skin[0] > 90)
        )
    mottle = rng.normal(0, 2.2, pixels.shape[:2]).astype(np.float32)
    pixels += mottle[..., None]
    canvas.paste_soft(pixels, canvas.mask(face_outline(canvas), 0.45))


def draw_ears(canvas: Canvas) -> None:
    p = canvas.person
    for side in (-1, 1):
        shape = [(1.0, -0.2), (1.16, -0.28), (1.26, -0.1), (1.2, 0.25), (1.1, 0.5), (1.0, 0.5)]
        ear = smooth([(side * x * p.cheek / 1.05, y) for x, y in shape], closed=True)
        canvas.fill(ear, mix(p.skin, (150, 60, 50), 0.14), 0.35)
        inner = smooth([(side * x, y) for x, y in ((1.06, 0.3), (1.17, 0.1), (1.18, -0.1), (1.09, -0.15))])
        canvas.stroke(inner, mix(p.skin, (60, 20, 15), 0.45), 0.03, 0.35)
        canvas.stroke(inner + np.array([-0.03 * side, 0.06]), mix(p.skin, (255, 235, 225), 0.35), 0.02, 0.35)
        if p.earrings:
            gold = (222, 186, 92) if p.age < 0.4 else (225, 225, 232)
            canvas.disc(side * 1.12, 0.56, 0.05, mix(gold, (60, 40, 10), 0.5), 0.35)
            canvas.disc(side * 1.11, 0.55, 0.035, gold, 0.35)
            if p.makeup > 0.5:
                canvas.stroke([(side * 1.12, 0.6), (side * 1.12, 0.85)], gold, 0.02, 0.35)
                canvas.disc(side * 1.12, 0.9, 0.07, gold, 0.35)
                canvas.disc(side * 1.1, 0.88, 0.025, (255, 255, 245), 0.35)


def draw_marks(canvas: Canvas) -> None:
    """Freckles, moles and the lines of age."""
    p, rng = canvas.person, canvas.rng
    if p.freckles:
        spots = rng.normal(0, 1, (round(90 * p.freckles), 2)) * (0.42, 0.18) + (0, 0.45)
        for x, y in spots.tolist():
            if abs(x) < 0.95:
                canvas.disc(
                    x,
                    y,
                    float(rng.uniform(0.008, 0.02)),
                    mix(p.skin, (120, 60, 30), float(rng.uniform(0.25, 0.6))),
                )
    if rng.random() < 0.25:
        canvas.disc(float(rng.uniform(-0.8, 0.8)), float(rng.uniform(0.4, 1.4)), 0.025, mix(p.skin, (50, 25, 20), 0.8))
    if p.age > 0.25:
        for k in range(int(1 + 3 * p.age)):
            y = -0.62 - 0.13 * k
            wave = [(x, y + float(rng.normal(0, 0.012)) - 0.03 * (1 - x * x)) for x in np.linspace(-0.6, 0.6, 6)]
            canvas.stroke(smooth(wave), mix(p.skin, (60, 25, 20), 0.4 * p.age), 0.016)
        for side in (-1, 1):
            canvas.stroke([(side * 0.06, -0.3), (side * 0.05, -0.12)], mix(p.skin, (60, 25, 20), 0.4 * p.age), 0.016)
