"""The picture under the brush: pose, curves, strokes, and soft shading."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .person import Color, Person

SUPERSAMPLING = 3
SOFT = 4  # soft shading is computed on a grid this much coarser than the canvas
Points = Sequence[tuple[float, float] | np.ndarray] | np.ndarray


def rgb(color: Sequence[float], gain: float = 1.0) -> tuple[int, int, int]:
    """A colour times `gain`, as Pillow wants it."""
    r, g, b = color  # written out, here and in mix: they run some hundred times a face
    return _level(r * gain), _level(g * gain), _level(b * gain)


def _level(value: float) -> int:
    return 0 if value <= 0 else 255 if value >= 255 else int(value + 0.5)


def mix(a: Sequence[float], b: Sequence[float], t: float) -> Color:
    return a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])


_T = np.linspace(0, 1, 8, endpoint=False)[:, None]
_CATMULL = 0.5 * np.concatenate(
    [-_T + 2 * _T**2 - _T**3, 2 - 5 * _T**2 + 3 * _T**3, _T + 4 * _T**2 - 3 * _T**3, -(_T**2) + _T**3], axis=1
)  # [8, 4]


def smooth(points: Points, closed: bool = False) -> np.ndarray:
    """A Catmull-Rom curve through `points`, float64 [8 * segments (+ 1), 2]."""
    p = np.asarray(points, np.float64)
    around = np.concatenate([p[-1:], p, p[:2]]) if closed else np.concatenate([p[:1], p, p[-1:]])
    windows = np.stack([around[:-3], around[1:-2], around[2:-1], around[3:]], axis=1)  # [segments, 4, 2]
    curve = (_CATMULL @ windows).reshape(-1, 2)
    return curve if closed else np.concatenate([curve, p[-1:]])


class Canvas:
    """An RGB picture of three times the size, and the pose that takes face coordinates to its pixels.

    Face coordinates: the eyes are at (-0.5, 0) and (0.5, 0), y points down, z (towards the viewer) follows an
    ellipsoid unless it is given.
    """

    def __init__(self, size: int, person: Person, rng: np.random.Generator) -> None:
        self.person, self.rng = person, rng
        self.side = size * SUPERSAMPLING
        self.image = Image.new("RGB", (self.side, self.side))
        self.draw = ImageDraw.Draw(self.image)
        self.unit = self.side * float(rng.uniform(0.225, 0.31))
        self.center = (
            self.side * (0.5 + float(rng.normal(0, 0.015))),
            self.side * (0.47 + float(rng.normal(0, 0.015))),
        )
        self.roll = float(np.clip(rng.normal(0, 0.08), -0.25, 0.25))
        self.yaw = float(np.clip(rng.normal(0, 0.22), -0.5, 0.5))
        self.pitch = float(np.clip(rng.normal(0, 0.1), -0.22, 0.22))
        c, s = np.cos(self.roll), np.sin(self.roll)
        spin = self.unit * np.array([[c, s], [-s, c]])  # row vectors: p @ spin
        self._turn = np.diag([np.cos(self.yaw), np.cos(self.pitch)]) @ spin
        self._lean = np.array([np.sin(self.yaw), np.sin(self.pitch)]) @ spin
        self._queue: list[tuple[np.ndarray, Sequence[float], float, float]] = []
        grid = (np.arange(self.side // SOFT, dtype=np.float32) + 0.5) * SOFT
        self.grid_x, self.grid_y = grid[None, :], grid[:, None]

    def place(self, points: Points, z: float | np.ndarray | None = None) -> np.ndarray:
        """Face coordinates [n, 2] to canvas pixels [n, 2]; `z`: one, one a point, or the ellipsoid's."""
        p = np.asarray(points, np.float64).reshape(-1, 2)
        x, y = p[:, 0], p[:, 1]
        if z is None:
            z = 1.05 * np.sqrt(np.maximum(1 - (x / 1.25) ** 2 - ((y - 0.1) / 2.0) ** 2, 0.02))
        out = p @ self._turn
        out += np.multiply.outer(np.asarray(z) - 0.6, self._lean)
        out += self.center
        return out

    def queue(self, points: Points, color: Sequence[float], width: float, z: float | None = None) -> None:
        """A stroke to be drawn by the next `flush`: placing thousands of strands at once is much faster."""
        self._queue.append((np.asarray(points, np.float64), color, width, np.nan if z is None else z))

    def flush(self) -> None:
        if not self._queue:
            return
        lengths = [len(points) for points, *_ in self._queue]
        points = np.concatenate([points for points, *_ in self._queue])
        x, y = points[:, 0], points[:, 1]
        z = np.repeat([z for *_, z in self._queue], lengths)
        surface = 1.05 * np.sqrt(np.maximum(1 - (x / 1.25) ** 2 - ((y - 0.1) / 2.0) ** 2, 0.02))
        pixels = _pairs(self.place(points, np.where(np.isnan(z), surface, z)))
        start = 0
        for length, (_, color, width, _) in zip(lengths, self._queue, strict=True):
            self.draw.line(pixels[start : start + length], rgb(color), max(1, round(width * self.unit)))
            start += length
        self._queue.clear()

    def fill(self, points: Points, color: Sequence[float], z: float | None = None) -> None:
        """A filled polygon in face coordinates."""
        self.draw.polygon(_pairs(self.place(points, z)), fill=rgb(color))

    def stroke(self, points: Points, color: Sequence[float], width: float, z: float | None = None) -> None:
        """A polyline in face coordinates; `width` in units of the eye distance."""
        pixels = max(1, round(width * self.unit))
        self.draw.line(_pairs(self.place(points, z)), fill=rgb(color), width=pixels, joint="curve")

    def disc(self, x: float, y: float, radius: float, color: Sequence[float], z: float | None = None) -> None:
        (px, py), r = self.place([(x, y)], z)[0], max(0.5, radius * self.unit)
        self.draw.ellipse((px - r, py - r, px + r, py + r), fill=rgb(color))

    def mask(self, points: Points, z: float | None = None) -> Image.Image:
        """A polygon in face coordinates as a mask of the whole canvas (mode L)."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(_pairs(self.place(points, z)), fill=255)
        return mask

    def swap(self, image: Image.Image) -> None:
        self.image = image
        self.draw = ImageDraw.Draw(image)

    def blob(self, x: float, y: float, sx: float, sy: float, z: float | None = None) -> np.ndarray:
        """A Gaussian bump on the soft grid, float32 [side/4, side/4], 1 at its centre."""
        px, py = self.place([(x, y)], z)[0]
        gx = np.exp(-0.5 * ((self.grid_x - np.float32(px)) / np.float32(sx * self.unit)) ** 2)
        gy = np.exp(-0.5 * ((self.grid_y - np.float32(py)) / np.float32(sy * self.unit)) ** 2)
        return gy * gx

    def lambert(self, x: float, y: float, rx: float, ry: float, ambient: float) -> np.ndarray:
        """Light on an ellipsoid around (x, y), float32 on the soft grid, about 1 where it falls straight."""
        px, py = self.place([(x, y)], 0.6)[0]
        nx = (self.grid_x - np.float32(px)) / np.float32(rx * self.unit)
        ny = (self.grid_y - np.float32(py)) / np.float32(ry * self.unit)
        nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, None))
        lx, ly, lz = np.asarray(self.person.light) / np.linalg.norm(self.person.light)
        return np.float32(ambient) + np.float32(1 - ambient) * np.clip(nx * lx + ny * ly + nz * lz, 0, None)

    def soft(self, color: Sequence[float], gain: np.ndarray) -> np.ndarray:
        """`color` under `gain` (shade below 1 turns warmer), float32 [side/4, side/4, 3]."""
        warm = np.array([0.9, 1.05, 1.12], np.float32)
        return np.asarray(color, np.float32) * np.power(np.clip(gain, 0.05, 2)[..., None], warm)

    def paste_soft(self, pixels: np.ndarray, mask: Image.Image) -> None:
        """Enlarge soft pixels [side/4, side/4, 3] and paste them where `mask` is."""
        bounds = mask.getbbox()
        if bounds is None:
            return
        box = (bounds[0] // SOFT * SOFT, bounds[1] // SOFT * SOFT, *bounds[2:])
        size = (box[2] - box[0], box[3] - box[1])
        small = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        source = tuple(edge / SOFT for edge in box)
        part = small.resize(size, Image.Resampling.BILINEAR, box=(source[0], source[1], source[2], source[3]))
        self.image.paste(part, box[:2], mask.crop(box))


def _pairs(points: np.ndarray) -> list[tuple[float, float]]:
    return list(map(tuple, points.tolist()))
