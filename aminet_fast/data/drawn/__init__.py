"""The embedded default: drawn faces by seed, so that everything runs with no download.

Each face has its own skin, shape, age, expression, pose, hair, glasses, clothes, light and background. They
are drawn at three times the size, of which each pixel is the mean of nine. Only numpy and Pillow are used; the
same versions of them give the same pixels. Nothing here loads torch, so that `processes` start quickly.
"""

from __future__ import annotations

import operator

import numpy as np
from PIL import Image

from .accessories import draw_glasses, draw_hat
from .canvas import Canvas
from .features import draw_brows, draw_eyes, draw_mouth, draw_nose
from .hair import draw_back_hair, draw_beard, draw_hair
from .head import draw_ears, draw_head, draw_marks
from .person import Person
from .scene import draw_background, draw_body, finish

DRAWN_VERSION = 3  # a new drawing is a new set: it must not meet the old one's cache


def draw_face(seed: int, size: int = 128) -> Image.Image:
    """One drawn face, PIL RGB size x size, framed about as CelebA's centre crop.

    Raises ValueError for a negative seed or a size below 16.
    """
    seed = operator.index(seed)
    if seed < 0 or size < 16:
        raise ValueError(f"draw_face got seed {seed} and size {size}; wanted a seed >= 0 and a size >= 16")
    rng = np.random.Generator(np.random.PCG64(seed))
    person = Person.sample(rng)
    canvas = Canvas(size, person, rng)
    draw_background(canvas)
    draw_back_hair(canvas)
    draw_body(canvas)
    draw_ears(canvas)
    draw_head(canvas)
    draw_marks(canvas)
    draw_nose(canvas)
    draw_eyes(canvas)
    draw_mouth(canvas)
    draw_beard(canvas)
    draw_brows(canvas)
    draw_hair(canvas)
    draw_glasses(canvas)
    draw_hat(canvas)
    return finish(canvas, size)
