"""The extras that bring optional packages, and what is said where one of those is missing."""

from __future__ import annotations

# What pyproject.toml lists under the same names; `all` is all of these together. `faces` is a name kept for
# finding faces in photographs: nothing needs a package for it yet.
EXTRAS: dict[str, tuple[str, ...]] = {
    "faces": (),
    "web": ("gradio",),
    "export": ("onnx", "onnxscript"),
    "metrics": ("lpips", "torchvision", "scikit-image", "torchmetrics"),
    "fid": ("torch-fidelity",),
    "plot": ("matplotlib",),
    "tracking": ("tensorboard",),
    "demo": ("matplotlib", "scikit-image"),
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
