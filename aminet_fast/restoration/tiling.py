"""Large pictures in overlapping tiles, blended so that no seam shows and memory stays bounded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of `tile` pixels begin so that they cover `length`, neighbours sharing at least `overlap`.

    The last tile is moved back to end with the picture; a picture that fits in one tile has one.
    """
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def tile_weights(starts: list[int], length: int, tile: int, overlap: int) -> list[np.ndarray]:
    """How much each tile counts at each of its positions along one axis; the weights of all tiles sum to 1.

    In the overlap the weight rises linearly. The outer quarter of the overlap counts nothing: there the
    network saw the tile's edge instead of the picture's continuation.

    Returns:
        One float64 array [min(tile, length)] a tile.
    """
    size = min(tile, length)
    margin = overlap // 4
    rise = (np.arange(size) + 0.5 - margin) / max(overlap - 2 * margin, 1)
    rise = rise.clip(0.0, 1.0)
    raw = []
    for start in starts:
        weight = np.ones(size)
        if start > 0:
            weight = np.minimum(weight, rise)
        if start + size < length:
            weight = np.minimum(weight, rise[::-1])
        raw.append(weight)
    total = np.zeros(length)
    for start, weight in zip(starts, raw, strict=True):
        total[start : start + size] += weight
    return [weight / total[start : start + size] for start, weight in zip(starts, raw, strict=True)]


def process_tiles(
    image: Image.Image,
    process: Callable[[list[Image.Image]], list[np.ndarray]],
    *,
    tile: int,
    overlap: int,
) -> Image.Image:
    """Runs `process` on overlapping tiles of a picture and blends what it returns.

    Held at once, beside the 8-bit picture and its result: one row of tiles, in float32.

    Args:
        image: RGB.
        process: takes a row of tiles and returns for each a float32 [h, w, 3] of levels, about 0..255.
        tile: side of a tile in pixels.
        overlap: how many pixels neighbours share at least; less than `tile`.

    Returns:
        An RGB picture of the same size.
    """
    width, height = image.size
    xs, ys = tile_starts(width, tile, overlap), tile_starts(height, tile, overlap)
    wx, wy = tile_weights(xs, width, tile, overlap), tile_weights(ys, height, tile, overlap)
    tile_w, tile_h = min(tile, width), min(tile, height)
    result = np.empty((height, width, 3), dtype=np.uint8)
    band = np.zeros((tile_h, width, 3), dtype=np.float32)  # rows y..y+tile_h, summed so far
    for row, y in enumerate(ys):
        tiles = process([image.crop((x, y, x + tile_w, y + tile_h)) for x in xs])
        for x, weight, levels in zip(xs, wx, tiles, strict=True):
            band[:, x : x + tile_w] += levels * (wy[row][:, None, None] * weight[None, :, None]).astype(np.float32)
        done = (ys[row + 1] if row + 1 < len(ys) else height) - y  # rows that no later tile touches
        result[y : y + done] = np.rint(band[:done]).clip(0, 255)
        band[: tile_h - done] = band[done:].copy()
        band[tile_h - done :] = 0
    return Image.fromarray(result)
