"""The picture under the brush: pose, curves, strokes, and soft shading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

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
    """Catmull-Rom curves through `points` [..., n, 2], float64 [..., 8 * segments (+ 1), 2]."""
    p = np.asarray(points, np.float64)
    around = [p[..., -1:, :], p, p[..., :2, :]] if closed else [p[..., :1, :], p, p[..., -1:, :]]
    q = np.concatenate(around, axis=-2)
    windows = np.stack([q[..., i : q.shape[-2] - 3 + i, :] for i in range(4)], axis=-2)  # [..., segments, 4, 2]
    curve = (_CATMULL @ windows).reshape(*p.shape[:-2], -1, 2)
    return curve if closed else np.concatenate([curve, p[..., -1:, :]], axis=-2)


Paint = Callable[[ImageDraw.ImageDraw, list[float], tuple[int, int, int], float], None]


class Job(NamedTuple):
    """Shapes that wait to be drawn: their points one after the other, and how many each of them has."""

    paint: Paint
    points: np.ndarray  # [sum of lengths, 2], face coordinates
    lengths: Sequence[int]
    colors: Sequence[tuple[int, int, int]]
    width: float  # of a line, or the radius of a disc, in canvas pixels
    z: float  # NaN: the ellipsoid's


def _line(draw: ImageDraw.ImageDraw, xy: list[float], color: tuple[int, int, int], width: float) -> None:
    draw.line(xy, color, int(width))


def _curve(draw: ImageDraw.ImageDraw, xy: list[float], color: tuple[int, int, int], width: float) -> None:
    draw.line(xy, color, int(width), "curve")


def _polygon(draw: ImageDraw.ImageDraw, xy: list[float], color: tuple[int, int, int], width: float) -> None:
    draw.polygon(xy, color)


def _disc(draw: ImageDraw.ImageDraw, xy: list[float], color: tuple[int, int, int], width: float) -> None:
    x, y = xy
    draw.ellipse((x - width, y - width, x + width, y + width), color)


class Canvas:
    """An RGB picture of three times the size, and the pose that takes face coordinates to its pixels.

    Shapes are drawn in the order of the calls, but only when `image` or `draw` is asked for: placing the points
    of hundreds of strokes at once is much faster.

    Face coordinates: the eyes are at (-0.5, 0) and (0.5, 0), y points down, z (towards the viewer) follows an
    ellipsoid unless it is given.
    """

    def __init__(self, size: int, person: Person, rng: np.random.Generator) -> None:
        self.person, self.rng = person, rng
        self.side = size * SUPERSAMPLING
        self._jobs: list[Job] = []
        self.swap(Image.new("RGB", (self.side, self.side)))
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
        grid = (np.arange(self.side // SOFT, dtype=np.float32) + 0.5) * SOFT
        self.grid_x, self.grid_y = grid[None, :], grid[:, None]

    def place(self, points: Points, z: float | np.ndarray | None = None) -> np.ndarray:
        """Face coordinates [n, 2] to canvas pixels [n, 2]; `z`: one, one a point, or the ellipsoid's."""
        p = np.asarray(points, np.float64).reshape(-1, 2)
        if z is None:
            z = _surface(p)
        out = p @ self._turn
        out += np.multiply.outer(np.asarray(z) - 0.6, self._lean)
        out += self.center
        return out

    @property
    def image(self) -> Image.Image:
        """The picture with everything that was drawn so far."""
        self._flush()
        return self._image

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        """A brush on `image`, in canvas pixels."""
        self._flush()
        return self._draw

    def swap(self, image: Image.Image) -> None:
        """Go on with another picture of the same size."""
        self._image, self._draw = image, ImageDraw.Draw(image)

    def _flush(self) -> None:
        if not self._jobs:
            return
        jobs, self._jobs = self._jobs, []
        points = np.concatenate([job.points for job in jobs])
        z = np.repeat([job.z for job in jobs], [len(job.points) for job in jobs])
        pixels = self.place(points, np.where(np.isnan(z), _surface(points), z)).ravel().tolist()
        start = 0
        for job in jobs:
            for length, color in zip(job.lengths, job.colors, strict=True):
                job.paint(self._draw, pixels[start : start + 2 * length], color, job.width)
                start += 2 * length

    def _add(self, paint: Paint, points: Points, color: Sequence[float], width: float, z: float | None) -> None:
        p = np.asarray(points, np.float64)
        self._jobs.append(Job(paint, p, (len(p),), (rgb(color),), width, np.nan if z is None else z))

    def _pixels(self, width: float) -> int:
        return max(1, round(width * self.unit))

    def strands(
        self, paths: np.ndarray | Sequence[np.ndarray], colors: np.ndarray, width: float, z: float | None = None
    ) -> None:
        """Thin polylines [m, n, 2] (or m of [n, 2]) in their colours [m, 3]; `width` in units of the eye distance."""
        if len(paths) == 0:
            return
        levels = [(r, g, b) for r, g, b in np.clip(colors + 0.5, 0, 255).astype(int).tolist()]
        lengths = [len(path) for path in paths]
        points = np.concatenate(paths)
        self._jobs.append(Job(_line, points, lengths, levels, self._pixels(width), np.nan if z is None else z))

    def fill(self, points: Points, color: Sequence[float], z: float | None = None) -> None:
        """A filled polygon in face coordinates."""
        self._add(_polygon, points, color, 0, z)

    def stroke(self, points: Points, color: Sequence[float], width: float, z: float | None = None) -> None:
        """A polyline in face coordinates; `width` in units of the eye distance."""
        self._add(_curve, points, color, self._pixels(width), z)

    def disc(self, x: float, y: float, radius: float, color: Sequence[float], z: float | None = None) -> None:
        self._add(_disc, [(x, y)], color, max(0.5, radius * self.unit), z)

    def mask(self, points: Points, z: float | None = None) -> Image.Image:
        """A polygon in face coordinates as a mask of the whole canvas (mode L)."""
        mask = Image.new("L", (self.side, self.side))
        ImageDraw.Draw(mask).polygon(self.place(points, z).ravel().tolist(), fill=255)
        return mask

    def tint(self, points: Points, color: Sequence[float], strength: int, z: float | None = None) -> None:
        """A polygon that lets shine through what is under it; `strength` 0..255."""
        p = self.place(points, z)
        left, top = np.floor(p.min(0)).astype(int).tolist()
        right, bottom = np.ceil(p.max(0)).astype(int).tolist()
        mask = Image.new("L", (right - left + 1, bottom - top + 1))
        ImageDraw.Draw(mask).polygon((p - (left, top)).ravel().tolist(), fill=strength)
        self.image.paste(rgb(color), (left, top, left + mask.width, top + mask.height), mask)

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


def _surface(points: np.ndarray) -> np.ndarray:
    """z of the ellipsoid under each of [n, 2] points."""
    x, y = points[:, 0], points[:, 1]
    return 1.05 * np.sqrt(np.maximum(1 - (x / 1.25) ** 2 - ((y - 0.1) / 2.0) ** 2, 0.02))
