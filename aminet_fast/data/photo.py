"""A public-domain photograph that scikit-image ships, for pictures and demonstrations."""

from __future__ import annotations

from PIL import Image

from ..output.extras import missing

# left, top, right, bottom of the face: eyes level with CelebA's, about 0.3 of the side apart
FACE_BOX = (160, 38, 288, 166)


def sample_photograph() -> Image.Image:
    """The portrait of the astronaut Eileen Collins (NASA, public domain), PIL RGB 512x512.

    Raises ImportError naming the extra when scikit-image is not installed.
    """
    try:
        from skimage.data import astronaut
    except ImportError as error:
        raise missing("demo", "the sample photograph needs scikit-image, which ships it") from error
    return Image.fromarray(astronaut())


def sample_face(size: int = 128) -> Image.Image:
    """The face of `sample_photograph`, PIL RGB size x size, framed like CelebA's centre crop."""
    return sample_photograph().crop(FACE_BOX).resize((size, size), Image.Resampling.BICUBIC)
