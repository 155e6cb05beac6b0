"""Background, neck and clothes, and the camera at the end."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .canvas import SUPERSAMPLING, Canvas, mix, rgb, smooth
from .person import Color


def _color(rng: np.random.Generator, low: float = 15, high: float = 240) -> Color:
    r, g, b = rng.uniform(low, high, 3)
    grey = (r + g + b) / 3
    return mix((float(r), float(g), float(b)), (float(grey),) * 3, float(rng.uniform(0.1, 0.8)))


def draw_background(canvas: Canvas) -> None:
    rng, side = canvas.rng, canvas.side
    n = int(rng.integers(2, 5))
    corners = np.array([_color(rng) for _ in range(4)]).reshape(2, 2, 3)
    if rng.random() < 0.4:
        corners = corners.mean((0, 1)) + 0.25 * (corners - corners.mean((0, 1)))
    noise = rng.normal(0, float(rng.uniform(2, 26)), (n, n, 1))
    small = np.clip(corners.repeat(-(-n // 2), 0)[:n].repeat(-(-n // 2), 1)[:, :n] + noise, 0, 255)
    canvas.swap(Image.fromarray(small.astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC))
    kind = rng.random()
    if kind < 0.2:
        _draw_lights(canvas)
    elif kind < 0.38:
        _draw_shelves(canvas)
    elif kind < 0.52:
        _draw_wall(canvas)
    elif kind < 0.66:
        _draw_leaves(canvas)


def _draw_lights(canvas: Canvas) -> None:
    """Lamps out of focus."""
    rng, side = canvas.rng, canvas.side
    layer = canvas.image.copy()
    draw = ImageDraw.Draw(layer)
    for x, y, r in rng.uniform((0, 0, 0.02), (1, 1, 0.11), (16, 3)) * side:
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rgb(_color(rng, 90, 255)))
    canvas.swap(Image.blend(canvas.image, layer, 0.55))


def _draw_shelves(canvas: Canvas) -> None:
    """Rows of upright things, somewhat out of focus."""
    rng, side = canvas.rng, canvas.side
    y = 0.0
    while y < side:
        height = side * float(rng.uniform(0.16, 0.26))
        x = 0.0
        while x < side:
            width = side * float(rng.uniform(0.02, 0.07))
            top = y + height * float(rng.uniform(0.05, 0.4))
            canvas.draw.rectangle((x, top, x + width, y + height * 0.93), fill=rgb(_color(rng)))
            x += width + 1
        y += height
    small = canvas.image.resize((side // 6, side // 6), Image.Resampling.BOX)
    canvas.swap(small.resize((side, side), Image.Resampling.BICUBIC))


def _draw_wall(canvas: Canvas) -> None:
    """Bricks, tiles or boards."""
    rng, side = canvas.rng, canvas.side
    line = rgb(_color(rng), 0.8)
    height = side * float(rng.uniform(0.05, 0.14))
    width = height * float(rng.uniform(1, 3.5))
    for row in range(int(side / height) + 1):
        canvas.draw.line((0, row * height, side, row * height), fill=line, width=2)
        shift = (row % 2) * width / 2
        for column in range(int(side / width) + 2):
            x = column * width - shift
            canvas.draw.line((x, row * height, x, (row + 1) * height), fill=line, width=2)


def _draw_leaves(canvas: Canvas) -> None:
    rng, side = canvas.rng, canvas.side
    green = (float(rng.uniform(30, 110)), float(rng.uniform(80, 150)), float(rng.uniform(20, 80)))
    for x, y, angle, size in rng.uniform((0, 0, 0, 0.03), (1, 1, 6.3, 0.09), (150, 4)).tolist():
        c, s = np.cos(angle) * size * side, np.sin(angle) * size * side
        px, py = x * side, y * side
        leaf = [
            (px - c, py - s),
            (px - 0.35 * s, py + 0.35 * c),
            (px + c, py + s),
            (px + 0.35 * s, py - 0.35 * c),
        ]
        canvas.draw.polygon(leaf, fill=rgb(mix(green, (10, 20, 10), float(rng.uniform(-0.3, 0.8)))))
    canvas.swap(canvas.image.filter(ImageFilter.BoxBlur(float(rng.uniform(0, 5)))))


def draw_body(canvas: Canvas) -> None:
    """Neck with the chin's shadow, shoulders, and something to wear."""
    p, rng = canvas.person, canvas.rng
    cloth = _color(rng)
    neck = float(rng.uniform(0.58, 0.7)) * p.jaw / 0.84
    tall = 2.12
    half = [(neck, tall - 0.15), (neck + 0.3, tall + 0.1), (1.8, tall + 0.45), (2.4, tall + 0.8), (2.6, 4.5)]
    body = smooth([*half, *[(-x, y) for x, y in half[::-1]]])
    shade = 0.45 + 0.6 * canvas.lambert(0, 3.0, 2.8, 2.0, 0.4)
    canvas.paste_soft(canvas.soft(cloth, shade), canvas.mask(body, 0.2))
    _draw_cloth(canvas, cloth)
    throat = [
        (neck - 0.04, 0.9),
        (neck - 0.03, 1.7),
        (neck + 0.1, tall),
        (0.12, tall + float(rng.uniform(0.1, 0.6))),
    ]
    shape = smooth([*throat, *[(-x, y) for x, y in throat[::-1]]])
    skin = 0.84 * canvas.lambert(0, 1.9, 1.1, 2.2, 0.55)
    skin = skin - 0.42 * canvas.blob(0.1 * p.light[0], p.chin + 0.06, 0.75, 0.22, 0.3)
    canvas.paste_soft(canvas.soft(p.skin, skin + 0.05), canvas.mask(shape, 0.2))
    _draw_collar(canvas, cloth, neck, tall)


def _draw_cloth(canvas: Canvas, cloth: Color) -> None:
    rng = canvas.rng
    second = mix(cloth, _color(rng), 0.7)
    kind = rng.random()
    if kind < 0.2:
        for y in np.arange(2.1, 4.5, float(rng.uniform(0.12, 0.25))):
            canvas.stroke(smooth([(-2.3, y + 0.6), (0, y), (2.3, y + 0.6)]), second, 0.06, 0.2)
    elif kind < 0.35:
        for x in np.arange(-2.2, 2.3, 0.17):
            canvas.stroke([(x, 2.55 + 0.12 * abs(x)), (x * 1.1, 4.5)], second, 0.025, 0.2)
    elif kind < 0.45:
        for x, y in rng.uniform((-2, 2.5), (2, 4.2), (60, 2)).tolist():
            canvas.disc(x, y, 0.06, second, 0.2)


def _draw_collar(canvas: Canvas, cloth: Color, neck: float, tall: float) -> None:
    rng = canvas.rng
    kind = rng.random()
    edge = mix(cloth, (0, 0, 0), 0.45)
    if kind < 0.35:
        white = mix((240, 240, 244), _color(rng), 0.2 if rng.random() < 0.7 else 0.7)
        for side in (-1, 1):
            flap = [
                (side * (neck + 0.02), tall - 0.3),
                (side * (neck + 0.2), tall + 0.0),
                (side * 0.42, tall + 0.75),
                (side * 0.02, tall + 0.42),
            ]
            canvas.fill(flap, white, 0.3)
            canvas.stroke([*flap[1:], flap[0]], mix(white, (0, 0, 0), 0.4), 0.016, 0.3)
            lapel = [(side * (neck + 0.3), tall + 0.1), (side * 0.95, tall + 0.9), (side * 0.2, tall + 2.2)]
            canvas.stroke(lapel, edge, 0.03, 0.3)
        if rng.random() < 0.6:
            tie = _color(rng)
            canvas.fill(
                [(-0.14, tall + 0.36), (0.14, tall + 0.36), (0.09, tall + 0.6), (-0.09, tall + 0.6)],
                tie,
                0.35,
            )
            canvas.fill(
                [(-0.09, tall + 0.6), (0.09, tall + 0.6), (0.24, tall + 2), (-0.24, tall + 2)],
                mix(tie, (0, 0, 0), 0.15),
                0.35,
            )
            for k in range(5):
                y = tall + 0.66 + 0.2 * k
                canvas.stroke([(-0.1, y + 0.08), (0.1, y - 0.04)], mix(tie, (255, 255, 255), 0.5), 0.03, 0.35)
    elif kind < 0.75:
        dip = float(rng.uniform(0.15, 0.7))
        ring = smooth(
            [
                (-neck - 0.14, tall - 0.04),
                (-0.35, tall + 0.8 * dip),
                (0, tall + dip),
                (0.35, tall + 0.8 * dip),
                (neck + 0.14, tall - 0.04),
            ]
        )
        canvas.stroke(ring, mix(cloth, (255, 255, 255), 0.15), 0.09, 0.25)
        canvas.stroke(ring + np.array([0, 0.05]), edge, 0.018, 0.25)
    if rng.random() < 0.25:
        chain = smooth([(-neck - 0.02, tall - 0.05), (0, tall + 0.4), (neck + 0.02, tall - 0.05)])
        canvas.stroke(chain, (222, 190, 104), 0.025, 0.3)
        canvas.disc(0, tall + 0.42, 0.06, (236, 208, 130), 0.3)


def finish(canvas: Canvas, size: int) -> Image.Image:
    """Reduce to `size`, then exposure, tint and a little sensor noise."""
    rng = canvas.rng
    image = canvas.image.reduce(SUPERSAMPLING)
    gain = rng.uniform(0.86, 1.08) * (1 + rng.normal(0, 0.025, 3))
    noise = np.float32(rng.uniform(0.3, 2.0)) * rng.standard_normal((size, size, 1), np.float32)
    pixels = np.asarray(image, np.float32) * gain.astype(np.float32) + noise
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))
