"""Faces whose original is known, shrunk, turned and put into a photograph: what the whole pipeline makes of them.

The photograph is composed with 8 times its pixels and shrunk by Pillow's antialiased bicubic. Scores are of the upright
frame of each face, as the true points say it, inside of an ellipse: PSNR and SSIM on luma, protocol "exact".
"""

from __future__ import annotations

import cmath
import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aminet_fast.data import to_tensor
from aminet_fast.data.warp import warp, warp_levels
from aminet_fast.metrics import psnr, ssim
from aminet_fast.network.expects import Template
from aminet_fast.restoration import Detector, Face, FaceNetwork, detect_faces, restore_photograph
from aminet_fast.restoration.align import FRAME, Pose, pose_of, template_of
from aminet_fast.restoration.faces import box_around, roll_of
from aminet_fast.restoration.paste import Patch, ellipse, enlarge_photograph, paste

EYES, ANGLES = (3.4, 4.2, 5.0, 6.0), (0, 10, 20, 30)  # pixels, degrees
WANTED = 0.8  # the gain at 20 degrees over that at none
TIMES = 8  # sides of the original over those of the photograph
_CELL = 22  # pixels of the photograph for a face, more for large ones
_SHEET = 36  # faces of a photograph
_SEEN = ((63.5, 66.0), (46.0, 56.0))  # centre and half axes of the ellipse that is scored, in the frame
METHODS = ("bicubic", "unaligned", "restored", "flip")


class Original(NamedTuple):
    """A face to plant: RGB of 128x128, and its five points as a `Face` has them, x + iy."""

    image: Image.Image
    points: Sequence[complex]


class Planted(NamedTuple):
    """A photograph, what it was shrunk from, and its faces with their true points."""

    photograph: Image.Image
    original: Image.Image
    faces: list[Face]


@dataclass
class Measured:
    """What was found of faces of one size and turn: counts, roll errors in degrees, (PSNR, SSIM) by method."""

    eyes: float
    angle: float
    planted: int = 0
    found: int = 0
    false: int = 0
    roll_errors: list[float] = field(default_factory=list)
    scores: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {name: [] for name in METHODS})

    def mean(self, method: str) -> tuple[float, float]:
        pairs = self.scores[method]
        return statistics.mean(pair[0] for pair in pairs), statistics.mean(pair[1] for pair in pairs)

    def gain(self, method: str = "restored", over: str = "bicubic") -> float:
        """dB of PSNR."""
        return self.mean(method)[0] - self.mean(over)[0]


def plant(originals: Sequence[Original], eyes: float, angle: float, seed: int = 0) -> Planted:
    """The faces on a square grid, their eyes `eyes` pixels apart, turned clockwise by `angle` degrees."""
    rng = np.random.default_rng(seed)
    across = math.ceil(math.sqrt(len(originals)))
    cell = max(_CELL, math.ceil(3.4 * eyes)) * TIMES
    levels = _background(rng, across * cell)
    faces = []
    for number, one in enumerate(originals):
        row, column = divmod(number, across)
        middle = complex(column + 0.5, row + 0.5) * cell + complex(*rng.uniform(-TIMES, TIMES, 2))
        points = np.array(one.points)
        turn = cmath.rect(TIMES * eyes / abs(points[1] - points[0]), math.radians(angle))
        eyes_middle = points[:2].mean()
        centre = eyes_middle + 0.45 * (points[3:].mean() - eyes_middle)
        _draw(levels, one.image, turn, middle - turn * centre, middle, cell)
        faces.append(_true_face((turn * (points - centre) + middle) / TIMES))
    original = Image.fromarray(np.rint(levels.clip(0, 255)).astype(np.uint8))
    size = (original.width // TIMES, original.height // TIMES)
    return Planted(original.resize(size, Image.Resampling.BICUBIC), original, faces)


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Coloured noise of three sizes: float [side, side, 3]."""
    levels = np.full((side, side, 3), 120.0)
    for cells, strength in ((4, 60), (16, 40), (64, 20)):
        count = max(2, side * cells // 1024) + 1
        for channel in range(3):
            noise = Image.fromarray(rng.normal(size=(count, count)).astype(np.float32))
            levels[..., channel] += strength * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC))
    return levels.clip(0, 255)


def _draw(levels: np.ndarray, face: Image.Image, turn: complex, origin: complex, middle: complex, cell: int) -> None:
    """Puts a face into the levels, in place: its pixel z at turn * z + origin, fading out around `middle`."""
    margin = 64
    around = Image.fromarray(np.pad(np.asarray(face), ((margin, margin), (margin, margin), (0, 0)), mode="reflect"))
    left, top = max(int(middle.real - cell / 2), 0), max(int(middle.imag - cell / 2), 0)
    right, bottom = min(left + cell, levels.shape[1]), min(top + cell, levels.shape[0])
    corner = complex(left, top)
    drawn = warp(around, 1 / turn, (corner - origin) / turn + complex(margin, margin), (right - left, bottom - top))
    x, y = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    distance = abs(x + 1j * y - middle) / abs(turn)  # pixels of the face
    share = ((62 - distance) / 8).clip(0, 1)[..., None]
    box = levels[top:bottom, left:right]
    box[:] = share * np.asarray(drawn, float) + (1 - share) * box


def _true_face(points: np.ndarray) -> Face:
    places = [complex(z) for z in points]
    return Face(box_around(places), 1.0, tuple((z.real, z.imag) for z in places), roll_of(places))


def measure(
    originals: Sequence[Original],
    network: FaceNetwork,
    flipped: FaceNetwork,
    detector: Detector,
    eyes: float,
    angle: float,
) -> Measured:
    """Plants the faces, `_SHEET` in a photograph, and scores what the pipeline, and others, make of them.

    Args:
        flipped: the network with ensemble "flip".
        detector: as `open_detector` returns it.
    """
    measured = Measured(eyes, angle)
    for seed, first in enumerate(range(0, len(originals), _SHEET)):
        planted = plant(originals[first : first + _SHEET], eyes, angle, seed)
        found = detect_faces(planted.photograph, detector)
        _count(measured, planted.faces, found)
        pictures = {
            "bicubic": enlarge_photograph(planted.photograph, TIMES, "bicubic"),
            "unaligned": unaligned(network, planted.photograph, found),
            "restored": restore_photograph(network, planted.photograph, detector=found, scale=TIMES).image,
            "flip": restore_photograph(flipped, planted.photograph, detector=found, scale=TIMES).image,
        }
        template = template_of(network.expects)
        for face in planted.faces:
            pose = pose_of(face, template)
            truth = upright(planted.original, pose)
            for method, picture in pictures.items():
                measured.scores[method].append(score(upright(picture, pose), truth))
    return measured


def unaligned(network: FaceNetwork, photograph: Image.Image, faces: Sequence[Face]) -> Image.Image:
    """What tools for aligned faces do with a face's box: it is taken as upright, shrunk or enlarged to the network's LR
    by bicubic interpolation, restored in one pass and put back into the photograph enlarged by bicubic.

    Faces are those that the pipeline found, with their places and sizes; only their roll is taken as 0.
    """
    result = enlarge_photograph(photograph, TIMES, "bicubic")
    template = template_of(network.expects)
    side = FRAME // network.expects.scale
    poses = [pose_of(dataclasses.replace(face, roll=0.0), template) for face in faces]
    inputs = [np.asarray(warp(photograph, pose.turn / side, pose.origin, (side, side)), np.float32) for pose in poses]
    for pose, levels in zip(poses, network(inputs), strict=True):
        paste(result, _upright_patch(levels, pose, template))
    return result


def _upright_patch(levels: np.ndarray, pose: Pose, template: Template) -> Patch:
    left, top = math.floor(TIMES * pose.origin.real), math.floor(TIMES * pose.origin.imag)
    length = math.ceil(TIMES * pose.side) + 1
    pixel = len(levels) / pose.side / TIMES  # levels along a pixel of the result
    origin = (complex(left, top) - TIMES * pose.origin) * pixel
    share = ellipse(pose, template, left, top, length, length, TIMES)
    return Patch(left, top, warp_levels(levels, pixel, origin, (length, length)), share)


def _count(measured: Measured, true: Sequence[Face], found: Sequence[Face]) -> None:
    """A true face is found where the nearest one found is less than its eye distance away."""
    hits = set()
    for face in true:
        near = min(range(len(found)), key=lambda i: abs(found[i].centre - face.centre), default=None)
        if near is not None and abs(found[near].centre - face.centre) < face.eye_distance:
            hits.add(near)
            measured.found += 1
            measured.roll_errors.append(abs((found[near].roll - face.roll + 180) % 360 - 180))
    measured.planted += len(true)
    measured.false += len(found) - len(hits)


def upright(picture: Image.Image, pose: Pose) -> Tensor:
    """The face's frame out of an enlarged photograph: float32 [1, 3, 128, 128] in [-1, 1]."""
    return to_tensor(warp(picture, TIMES * pose.turn / FRAME, TIMES * pose.origin, (FRAME, FRAME)))[None]


def score(frame: Tensor, truth: Tensor) -> tuple[float, float]:
    """PSNR in dB over the ellipse; SSIM over its bounding box, where pixels outside of the ellipse are the truth's."""
    (x, y), (a, b) = _SEEN
    columns, rows = torch.arange(FRAME), torch.arange(FRAME)[:, None]
    inside = ((columns - x) / a) ** 2 + ((rows - y) / b) ** 2 < 1
    filled = torch.where(inside, frame, truth)
    share = float(inside.float().mean())
    box = (..., slice(int(y - b), int(y + b) + 1), slice(int(x - a), int(x + a) + 1))
    decibels = float(psnr(filled, truth, "exact")) + 10 * math.log10(share)  # the mean is of the ellipse alone
    return decibels, float(ssim(filled[box], truth[box], "exact"))


def table(rows: Sequence[Measured]) -> Iterator[str]:
    """Markdown: a line for each size and turn."""
    yield (
        "| eyes, px | turned | found | false | roll error, median | bicubic, dB | restored, dB | SSIM, bicubic |"
        " SSIM, restored | gain, dB | with flip | no alignment |"
    )
    yield "|" + "---|" * 12
    for row in rows:
        bicubic, restored = row.mean("bicubic"), row.mean("restored")
        error = f"{statistics.median(row.roll_errors):.1f}" if row.roll_errors else "-"
        yield (
            f"| {row.eyes:g} | {row.angle:g} | {row.found}/{row.planted} | {row.false} | {error} | {bicubic[0]:.2f} |"
            f" {restored[0]:.2f} | {bicubic[1]:.3f} | {restored[1]:.3f} | {row.gain():+.2f} | {row.gain('flip'):+.2f} |"
            f" {row.gain('unaligned'):+.2f} |"
        )


def ratios(rows: Sequence[Measured]) -> dict[float, float]:
    """By eye distance, the gain at 20 degrees over that at none; sizes without both are left out."""
    gains = {(row.eyes, row.angle): row.gain() for row in rows}
    sizes = sorted({eyes for eyes, _ in gains})
    both = [eyes for eyes in sizes if (eyes, 0) in gains and (eyes, 20) in gains]
    return {eyes: gains[eyes, 20] / gains[eyes, 0] if gains[eyes, 0] > 0 else 0.0 for eyes in both}
