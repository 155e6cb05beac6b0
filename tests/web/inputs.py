"""A photograph with three faces, a detector that knows where they are, and a network of no weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn

from aminet_fast.restoration.faces import Face
from tests.restoration.inputs import noise

CENTRES = ((40, 40), (110, 40), (60, 110))


class Darker(nn.Module):
    """Halves the levels' distance to black, which is seen."""

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, 3, H, W] to the same."""
        return torch.lerp(x, torch.full_like(x, -1.0), 0.5)


@dataclass
class Detector:
    """Finds what it is told, and counts how often it is asked."""

    faces: list[Face]
    calls: int = 0

    def __call__(self, image: Image.Image) -> list[Face]:
        self.calls += 1
        return list(self.faces)


def face_at(x: float, y: float, score: float = 0.9) -> Face:
    """An upright face of eyes 9 pixels apart, the eyes' middle at (x, y)."""
    points = ((x - 4.5, y), (x + 4.5, y), (x, y + 5), (x - 3.5, y + 10), (x + 3.5, y + 10))
    return Face((x - 11, y - 12, x + 11, y + 17), score, points)


def three_faces() -> Detector:
    """Finds three faces, whatever it is shown."""
    return Detector([face_at(*centre) for centre in CENTRES])


def photograph(width: int = 160, height: int = 140) -> Image.Image:
    """Soft noise, RGB."""
    return noise(width // 10, height // 10).resize((width, height), Image.Resampling.BICUBIC)
