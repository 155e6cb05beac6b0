"""A labelled grid of pictures, to compare by eye what goes in, what comes out and what was wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..output.atomic import atomic_write
from .luma import quantise

_GAP = 4
_FONT_SIZE = 13
_MARGIN_COLOUR, _TEXT_COLOUR = (255, 255, 255), (20, 20, 20)
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def save_panel(
    path: str | Path,
    columns: Mapping[str, Tensor],
    *,
    names: Sequence[str] | None = None,
    scale: int = 1,
) -> None:
    """Writes a picture with one column for each entry of `columns` and one row for each picture of the batch.

    Args:
        path: where to write; .png, .jpg or .webp. Written whole or not at all.
        columns: label -> [N, 3, h, w] floating-point pictures in [-1, 1]. N is the same for all; smaller
            pictures are enlarged to the largest's size by nearest neighbour, so that an LR face shows its
            pixels.
        names: N captions, written under the rows.
        scale: whole-number enlargement of every picture, by nearest neighbour.

    Raises:
        ValueError: no columns or no pictures, columns of different N, names of another length, scale below
            1, or an unknown file suffix.
        TypeError: a column is not a floating-point tensor.
        OSError: the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise ValueError(f"cannot write a panel as {target.name!r}; use one of {', '.join(FORMATS)}")
    rows = _check(columns, names, scale)
    width = scale * max(x.shape[-1] for x in columns.values())
    height = scale * max(x.shape[-2] for x in columns.values())

    header = _FONT_SIZE + 2 * _GAP
    caption = _FONT_SIZE + _GAP if names is not None else 0
    size = (
        _GAP + len(columns) * (width + _GAP),
        header + rows * (height + caption + _GAP),
    )
    sheet = Image.new("RGB", size, _MARGIN_COLOUR)
    draw = ImageDraw.Draw(sheet)
    for column, (label, batch) in enumerate(columns.items()):
        left = _GAP + column * (width + _GAP)
        _write(draw, label, left, _GAP // 2, width, centred=True)
        for row in range(rows):
            top = header + row * (height + caption + _GAP)
            sheet.paste(_picture(batch[row]).resize((width, height), Image.Resampling.NEAREST), (left, top))
    for row, name in enumerate(names or ()):
        top = header + row * (height + caption + _GAP) + height
        _write(draw, name, _GAP, top, size[0] - 2 * _GAP, centred=False)
    with atomic_write(target) as file:
        sheet.save(file, format=FORMATS[target.suffix.lower()], quality=95)


def _check(columns: Mapping[str, Tensor], names: Sequence[str] | None, scale: int) -> int:
    """Validates the arguments of save_panel and returns the number of rows."""
    if not columns:
        raise ValueError("a panel needs at least one column")
    if scale < 1:
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}")
    for label, batch in columns.items():
        if batch.dim() != 4 or batch.shape[1] != 3 or batch.numel() == 0:
            raise ValueError(f"column {label!r} must be [N, 3, h, w] and not empty, got shape {tuple(batch.shape)}")
    counts = {label: len(batch) for label, batch in columns.items()}
    rows = next(iter(counts.values()))
    if set(counts.values()) != {rows}:
        raise ValueError(f"all columns must hold the same number of pictures, got {counts}")
    if names is not None and len(names) != rows:
        raise ValueError(f"names must have one entry for each of the {rows} rows, got {len(names)}")
    return rows


def _picture(x: Tensor) -> Image.Image:
    """x [3, h, w] in [-1, 1] as an 8-bit picture; a NaN shows as black."""
    levels = quantise(x, "exact").nan_to_num(0.0).cpu().numpy().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)), "RGB")


def _write(draw: ImageDraw.ImageDraw, text: str, left: int, top: int, width: int, *, centred: bool) -> None:
    """Writes one line of text into a width: in a smaller font when needed, then cut short."""
    text = text.encode(errors="replace").decode()  # file names need not be text
    font = ImageFont.load_default(_FONT_SIZE)
    if not isinstance(font, ImageFont.FreeTypeFont):  # Pillow without FreeType has a Latin-1 bitmap font only
        text = text.encode("latin-1", "replace").decode("latin-1")
    for size in range(_FONT_SIZE, 7, -1):
        font = ImageFont.load_default(size)
        if draw.textlength(text, font) <= width:
            break
    while len(text) > 1 and draw.textlength(text, font) > width:
        text = text.removesuffix("..")[:-1] + ".."
        if len(text) <= 3:
            break
    space = int((width - draw.textlength(text, font)) / 2) if centred else 0
    draw.text((left + max(space, 0), top), text, fill=_TEXT_COLOUR, font=font)
