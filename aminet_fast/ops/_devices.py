"""Why kernels cannot run on the GPU that is here: "" where they can, and where there is none."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache

import torch

from .extension import build_facts, load

OLDEST = (8, 0)  # compute capability that the Triton kernels are compiled for in tests


def triton_problem() -> str:
    """Of Triton's kernels."""
    try:
        import triton  # noqa: F401  not at import: it takes long, and a machine without a GPU need not have it
    except ImportError as error:
        return f"triton cannot be imported: {error}"
    return _launch_problem()


@cache
def _launch_problem() -> str:
    if not torch.cuda.is_available():
        return ""
    if torch.version.hip is None and torch.cuda.get_device_capability() < OLDEST:
        return f"the Triton kernels are for GPUs of compute capability {OLDEST[0]}.{OLDEST[1]} or newer"
    if not (os.environ.get("CC") or any(map(shutil.which, ("cc", "gcc", "clang")))):
        return "Triton needs a C compiler to launch kernels, and there is none (CC says where it is)"
    return ""


def compiled_problem() -> str:
    """Of the compiled kernels, which import everywhere and run where their build has an image for the GPU."""
    return load("_C_cuda")[1] or _image_problem()


@cache
def _image_problem() -> str:
    if not torch.cuda.is_available():
        return ""
    compiled, (major, minor) = build_facts().get("cuda_architectures", ""), torch.cuda.get_device_capability()
    if serves(compiled, (major, minor)):
        return ""
    return (
        f"the CUDA kernels were compiled for {compiled}, and this GPU is of compute capability {major}.{minor}; install"
        f" again with TORCH_CUDA_ARCH_LIST={major}.{minor} where that is 8.0 or newer"
    )


def serves(compiled: str, capability: tuple[int, int]) -> bool:
    """Whether a build for a TORCH_CUDA_ARCH_LIST runs on a GPU; so it does, for all we know, where that has names.

    An image runs on its own major version from its minor one on, one of "a" on its own alone; PTX on all later ones.
    """
    for entry in re.split(r"[ ;,]+", compiled):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", entry)
        if match is None:
            return True
        built = int(match[1]), int(match[2])
        same = built == capability if match[3] == "a" else built[0] == capability[0] and built <= capability
        if same or (match[4] and built <= capability):
            return True
    return False
