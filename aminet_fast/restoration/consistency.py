"""Enlarged pictures that are the small ones when shrunk again: no colour can shift, and grey stays grey.

What a network adds may move the mean of a region that the photograph knows. The difference is taken away smoothly: by
the one picture that is the bicubic enlargement of something and has just the missing averages.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from PIL import Image

from ..data.warp import resize_levels


def match_averages(levels: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """`levels` changed so that their averages over blocks are `lr`, to float32's precision.

    Args:
        levels: float [h * k, w * k, C].
        lr: float [h, w, C].

    Returns:
        float32 [h * k, w * k, C]: levels + U B^-1 (lr - A levels), where A averages blocks, U enlarges by bicubic and
        B = A U.
    """
    h, w, channels = lr.shape
    k = len(levels) // h
    missing = lr - levels.reshape(h, k, w, k, channels).mean(axis=(1, 3), dtype=np.float64)
    rows, columns = _solver(h, k), _solver(w, k)  # [h * k, h], [w * k, w]
    return (levels + np.einsum("ij,jkc,lk->ilc", rows, missing, columns, optimize=True)).astype(np.float32)


def add_missing(levels: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """`levels` with what their averages over blocks lack of `pixels`, enlarged by bicubic: nearly `match_averages`.

    That one amplifies what it adds, and with it the noise and the blocks of a compressed photograph. Where nothing is
    missing nothing changes. Shapes as there.
    """
    h, w, channels = pixels.shape
    k = len(levels) // h
    missing = pixels - levels.reshape(h, k, w, k, channels).mean(axis=(1, 3))
    return levels + enlarge_levels(missing, k)


def match_bicubic(levels: np.ndarray, lr: np.ndarray) -> np.ndarray:
    """`levels` changed so that Pillow's antialiased bicubic shrinks them to about `lr`: one step of back-projection."""
    h, w = lr.shape[:2]
    return levels + enlarge_levels(lr - resize_levels(levels, (w, h)), len(levels) // h)


def enlarge_levels(levels: np.ndarray, times: int) -> np.ndarray:
    """Pillow's bicubic enlargement of float levels [h, w, C], not rounded: float32 [h * times, w * times, C]."""
    return resize_levels(levels, (levels.shape[1] * times, levels.shape[0] * times))


@lru_cache(maxsize=64)
def _solver(length: int, times: int) -> np.ndarray:
    """U B^-1 along one axis: [length * times, length]."""
    identity = Image.fromarray(np.eye(length, dtype=np.float32))
    enlarged = np.asarray(identity.resize((length, length * times), Image.Resampling.BICUBIC), np.float64)
    averaged = enlarged.reshape(length, times, length).mean(axis=1)
    return enlarged @ np.linalg.inv(averaged)
