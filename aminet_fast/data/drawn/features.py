"""Eyes, brows, nose and mouth."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .canvas import Canvas, mix, rgb, smooth

DARK = (26, 16, 16)


def draw_eyes(canvas: Canvas) -> None:
    for side in (-1, 1):
        _draw_eye(canvas, side)


def _lids(canvas: Canvas, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper and lower lid, each from the inner to the outer corner, in face coordinates."""
    p = canvas.person
    w, h = p.eye_width, p.eye_open
    h *= 1 - 0.25 * max(0.0, p.smile)
    inner, outer = (0.5 - w / 2, 0.02), (0.5 + w / 2, -p.eye_slant)
    upper = smooth(
        [inner, (0.5 - 0.22 * w, -0.52 * h), (0.5 + 0.08 * w, -0.62 * h), (0.5 + 0.34 * w, -0.38 * h), outer]
    )
    lower = smooth([inner, (0.5 - 0.2 * w, 0.3 * h), (0.5 + 0.1 * w, 0.38 * h), (0.5 + 0.36 * w, 0.22 * h), outer])
    flip = np.array([side, 1.0])
    return upper * flip, lower * flip


def _draw_eye(canvas: Canvas, side: int) -> None:
    p = canvas.person
    upper, lower = _lids(canvas, side)
    if p.makeup > 0.3:
        shadow = smooth([*upper[::8], *(upper[::-8] + np.array([0.02 * side, -0.12]))], closed=True)
        canvas.fill(shadow, mix(p.skin, (p.iris[2], 70, 90), 0.35 * p.makeup))
    outline = canvas.place(np.concatenate([upper, lower[::-1]]))
    left, top = np.floor(outline.min(0)).astype(int) - 2
    right, bottom = np.ceil(outline.max(0)).astype(int) + 3
    box = (int(left), int(top), int(right), int(bottom))
    eye = canvas.image.crop(box)
    mask = Image.new("L", eye.size)
    ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in outline.tolist()], fill=255)
    _draw_ball(canvas, eye, side, (float(left), float(top)))
    canvas.image.paste(eye, box[:2], mask)
    skin_dark = mix(p.skin, DARK, 0.55)
    canvas.stroke(lower[6:], mix(p.skin, (120, 40, 40), 0.4), 0.018)
    canvas.stroke(lower[10:] + np.array([0, 0.015]), mix(p.skin, (255, 225, 215), 0.25), 0.014)
    canvas.stroke(upper, mix(DARK, p.hair, 0.2), 0.035 + 0.03 * p.makeup)
    crease = upper[6:-3] * np.array([1.0, 1.12]) + np.array([0, -0.055 - 0.02 * p.age])
    canvas.stroke(crease, skin_dark, 0.018)
    _draw_lashes(canvas, upper, side)
    canvas.disc(side * (0.5 - p.eye_width / 2 + 0.02), 0.02, 0.022, (205, 120, 112))
    if p.age > 0.3:
        for k in range(3):
            start = np.array([side * (0.52 + p.eye_width / 2), 0.02 + 0.06 * (k - 1)])
            canvas.stroke(
                [start, start + np.array([side * 0.15, 0.07 * (k - 1)])],
                mix(p.skin, DARK, 0.3 * p.age),
                0.014,
            )
        bag = smooth([(side * 0.3, 0.16), (side * 0.45, 0.24), (side * 0.65, 0.19)])
        canvas.stroke(bag, mix(p.skin, DARK, 0.32 * p.age), 0.02)


def _draw_ball(canvas: Canvas, eye: Image.Image, side: int, origin: tuple[float, float]) -> None:
    """White, iris with its rim and spokes, pupil and catchlight, onto the crop `eye`."""
    p, unit = canvas.person, canvas.unit
    draw = ImageDraw.Draw(eye)
    draw.rectangle((0, 0, *eye.size), fill=rgb((238, 232, 228), 0.97))
    draw.rectangle((0, 0, eye.width, eye.height * 0.22), fill=rgb((196, 186, 184)))  # the upper lid's shadow
    # pixels from the middle of the eye
    x, y = canvas.place([(side * 0.5 + 0.08 * p.gaze[0], -0.02 + 0.06 * p.gaze[1])])[0] - np.asarray(origin)
    radius = 0.115 * unit

    def circle(r: float, color: tuple[float, float, float], dx: float = 0.0, dy: float = 0.0) -> None:
        draw.ellipse((x + dx - r, y + dy - r, x + dx + r, y + dy + r), fill=rgb(color))

    circle(radius, mix(p.iris, DARK, 0.7))
    circle(radius * 0.86, p.iris)
    for angle in np.linspace(0, 2 * np.pi, 14, endpoint=False):
        c, s = np.cos(angle), np.sin(angle)
        color = rgb(mix(p.iris, (255, 245, 220), 0.4))
        draw.line(
            (x + 0.45 * radius * c, y + 0.45 * radius * s, x + 0.8 * radius * c, y + 0.8 * radius * s),
            fill=color,
        )
    circle(radius * 0.46, (10, 8, 10))
    glint = np.sign(p.light[0]) or 1.0
    circle(radius * 0.24, (255, 255, 255), glint * radius * 0.35, -radius * 0.38)
    circle(radius * 0.11, (215, 220, 230), -glint * radius * 0.4, radius * 0.35)


def _draw_lashes(canvas: Canvas, upper: np.ndarray, side: int) -> None:
    p = canvas.person
    length = 0.05 + 0.06 * p.makeup
    roots = upper[6 :: 3 if p.makeup > 0.2 else 5]
    lean = 2 * (roots[:, 0] - 0.42 * side) * length
    tips = roots + np.stack([lean, np.full_like(lean, -length)], 1)
    canvas.strands(np.stack([roots, tips], 1), np.tile(DARK, (len(roots), 1)), 0.014)


def draw_brows(canvas: Canvas) -> None:
    p, rng = canvas.person, canvas.rng
    color = mix(p.hair, DARK, 0.35)
    arch = float(rng.uniform(0.02, 0.12))
    frown = float(rng.normal(0, 0.04))
    for side in (-1, 1):
        y = -p.brow_height
        spine = smooth([(0.2, y + 0.04 + frown), (0.42, y - arch * 0.6), (0.66, y - arch), (0.86, y + 0.06)])
        thick = p.brow_thick * np.sin(np.linspace(0.5, np.pi * 0.97, len(spine))) ** 0.7
        flip = np.array([side, 1.0])
        body = np.concatenate(
            [spine - np.stack([0 * thick, thick / 2], 1), (spine + np.stack([0 * thick, thick / 2], 1))[::-1]]
        )
        canvas.fill(body * flip, mix(color, p.skin, 0.3))
        i = rng.integers(0, len(spine), 34)
        root = spine[i]
        root[:, 1] += rng.uniform(-0.5, 0.5, 34) * thick[i]
        along = np.stack([np.full(34, 0.09), -0.05 + 0.075 * i / len(spine)], 1) * rng.uniform(0.7, 1.3, (34, 1))
        shades = np.asarray(color) + rng.uniform(0, 0.3, (34, 1)) * (np.asarray(p.skin) - color)
        canvas.strands(np.stack([root, root + along], 1) * flip, shades, 0.012)


def draw_nose(canvas: Canvas) -> None:
    p = canvas.person
    w, y = p.nose_width, p.nose_length
    dark, light = mix(p.skin, (70, 25, 20), 0.5), mix(p.skin, (255, 245, 235), 0.45)
    away = -(np.sign(p.light[0]) or 1.0)
    bridge = smooth([(away * 0.16, -0.12), (away * 0.1, 0.1), (away * 0.12, 0.4), (away * (w * 0.55), y - 0.16)])
    canvas.stroke(bridge, mix(p.skin, dark, 0.42), 0.03, 1.1)
    for side in (-1, 1):
        wing = smooth(
            [
                (side * w * 0.72, y - 0.2),
                (side * w, y - 0.07),
                (side * w * 0.86, y + 0.04),
                (side * w * 0.6, y + 0.04),
            ]
        )
        canvas.stroke(wing, mix(p.skin, dark, 0.75), 0.025, 1.05)
        hole = smooth(
            [
                (side * 0.07, y + 0.04),
                (side * w * 0.45, y - 0.015),
                (side * w * 0.66, y + 0.03),
                (side * w * 0.4, y + 0.06),
            ],
            closed=True,
        )
        canvas.fill(hole, mix(p.skin, (30, 8, 8), 0.8), 1.1)
    canvas.stroke(smooth([(-0.09, y + 0.06), (0.0, y + 0.095), (0.09, y + 0.06)]), mix(p.skin, dark, 0.6), 0.02, 1.15)
    canvas.stroke([(-away * 0.02, 0.05), (-away * 0.03, y - 0.25)], mix(p.skin, light, 0.55), 0.035, 1.25)
    canvas.disc(-away * 0.045, y - 0.12, 0.045, mix(p.skin, light, 0.75), 1.3)


def draw_mouth(canvas: Canvas) -> None:
    """Lips around a mouth that is closed, or open with teeth."""
    p = canvas.person
    w = p.mouth_width * (1 + 0.22 * max(0.0, p.smile))
    full = p.lip_full * (1 - 0.25 * max(0.0, p.smile))
    gap = 0.22 * p.mouth_open * (0.4 + 0.6 * max(0.0, p.smile))
    y = 1.09 - gap * 0.3
    corner = y - 0.13 * p.smile
    bow = [(0.16 * w, y - 0.78 * full), (0.5 * w, y - 0.45 * full - 0.05 * p.smile), (w, corner)]
    top = smooth([*[(-a, b) for a, b in bow[::-1]], (0, y - 0.6 * full), *bow])
    upper = smooth(
        [
            (-w, corner),
            (-0.5 * w, y - 0.04 * p.smile),
            (0, y + 0.02),
            (0.5 * w, y - 0.04 * p.smile),
            (w, corner),
        ]
    )
    lower = smooth(
        [
            (-w, corner),
            (-0.5 * w, y + 0.85 * gap),
            (0, y + gap + 0.02),
            (0.5 * w, y + 0.85 * gap),
            (w, corner),
        ]
    )
    low = full * 1.15
    bottom = smooth(
        [
            (-w, corner),
            (-0.55 * w, y + gap + 0.62 * low),
            (0, y + gap + low),
            (0.55 * w, y + gap + 0.62 * low),
            (w, corner),
        ]
    )
    canvas.fill(np.concatenate([lower, bottom[::-1]]), mix(p.lip, (255, 200, 190), 0.1), 0.95)
    if gap > 0.02:
        canvas.fill(np.concatenate([upper, lower[::-1]]), (70, 18, 20), 0.92)
        _draw_teeth(canvas, upper, lower, w, y, gap)
    canvas.fill(np.concatenate([top, upper[::-1]]), mix(p.lip, DARK, 0.14), 0.95)
    line = mix(p.lip, DARK, 0.65)
    canvas.stroke(upper, line, 0.024 if gap < 0.02 else 0.014, 0.95)
    canvas.stroke(bottom[6:-6], mix(p.skin, p.lip, 0.7), 0.012, 0.95)
    gleam = np.array([[-0.3 * w, y + gap + 0.45 * low], [0.0, y + gap + 0.5 * low], [0.12 * w, y + gap + 0.48 * low]])
    canvas.stroke(gleam, mix(p.lip, (255, 240, 240), 0.45 + 0.3 * p.makeup), 0.03, 1.0)
    for side in (-1, 1):
        canvas.disc(side * w, corner, 0.022, line, 0.9)
        depth = 0.16 + 0.3 * max(0.0, p.smile) * 0.6 + 0.25 * p.age
        fold = smooth(
            [
                (side * (p.nose_width + 0.06), p.nose_length - 0.05),
                (side * (w + 0.08), 0.88),
                (side * (w + 0.12), corner + 0.02),
            ]
        )
        canvas.stroke(fold, mix(p.skin, (60, 20, 15), min(0.42, depth)), 0.022)


def _draw_teeth(canvas: Canvas, upper: np.ndarray, lower: np.ndarray, w: float, y: float, gap: float) -> None:
    inside = slice(4, len(upper) - 4)
    rim = upper[inside] * np.array([0.95, 1.0])
    share = 0.8 if gap < 0.14 else 0.6
    edge = rim + (lower[inside] - upper[inside]) * share
    tooth = mix((246, 242, 232), (222, 205, 170), 0.7 * canvas.person.age)
    canvas.fill(np.concatenate([rim, edge[::-1]]), tooth, 0.92)
    for x in (-0.66, -0.42, -0.2, 0.0, 0.2, 0.42, 0.66):
        i = int(np.abs(rim[:, 0] - x * w).argmin())
        canvas.stroke([rim[i], edge[i]], mix(tooth, (120, 90, 80), 0.5), 0.012, 0.92)
    if gap > 0.14:
        canvas.disc(0, y + gap * 0.92, 0.1, (186, 84, 84), 0.92)
