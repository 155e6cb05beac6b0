"""What is shown and handed out of a restored photograph: pictures, a report, one line of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..output.listing import first_few
from ..restoration.photograph import RestoredFace
from ..restoration.photograph_files import SCHEMA, as_text, describe_face, kind_of, note_of, write_png
from ..restoration.sizes import Size

GALLERY = 64  # faces shown one by one
_PREVIEW = 4096  # longest side of what the browser is given to compare
_NUMBERED = 2048  # and of the picture with numbers
_COLOURS = {"restored": (38, 120, 255), "left out": (240, 130, 20)}


def save_png(image: Image.Image, target: Path, icc: bytes | None, faces: Sequence[RestoredFace]) -> None:
    """Writes the result as a PNG that says how many of its faces were synthesised; it keeps the profile alone."""
    write_png(image, target, icc, note_of([describe_face(face) for face in faces]))


def save_preview(image: Image.Image, target: Path, icc: bytes | None) -> None:
    """Writes a JPEG to look at in the browser: no side above 4096 pixels, what is transparent white."""
    small = image.copy()
    small.thumbnail((_PREVIEW, _PREVIEW), Image.Resampling.BICUBIC)
    if small.mode in ("LA", "RGBA"):
        rgba = small.convert("RGBA")
        small = Image.new("RGB", small.size, "white")
        small.paste(rgba, mask=rgba.getchannel("A"))
    small.save(target, format="JPEG", quality=92, subsampling=0, icc_profile=icc)


def draw_numbers(photograph: Image.Image, faces: Sequence[RestoredFace]) -> Image.Image:
    """The photograph (RGB, enlarged up to four times while it stays below 2048 pixels) with a numbered box a face."""
    factor = min(4.0, _NUMBERED / max(photograph.size))
    size = (max(1, round(photograph.width * factor)), max(1, round(photograph.height * factor)))
    picture = photograph.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=18)
    for face in faces:
        colour = _COLOURS[face.status]
        left, top, right, bottom = (edge * factor for edge in face.face.box)
        left, right = sorted((left, right))
        top, bottom = sorted((top, bottom))
        draw.rectangle((left, top, right, bottom), outline=colour, width=2)
        label = str(face.number)
        width = draw.textlength(label, font=font) + 6
        x = min(max(left, 0), size[0] - width)
        y = min(max(top - 20, 0), max(0, size[1] - 20))
        draw.rectangle((x, y, x + width, y + 20), fill=colour)
        draw.text((x + 3, y + 10), label, fill="white", font=font, anchor="lm")
    return picture


def side_by_side(face: RestoredFace) -> Image.Image | None:
    """LR as blocks, bicubic and AMINet, 128 pixels high, of a restored face; None of one that was left out."""
    if face.lr is None or face.bicubic is None or face.restored is None:
        return None
    side, gap = 128, 4
    row = Image.new("RGB", (3 * side + 2 * gap, side), "white")
    for index, picture in enumerate((face.lr, face.bicubic, face.restored)):
        row.paste(picture.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (index * (side + gap), 0))
    return row


def restored_faces(faces: Sequence[RestoredFace]) -> list[tuple[Image.Image, str]]:
    """The first 64 restored faces, each as `side_by_side`, and what stands below it."""
    rows = ((side_by_side(face), f"face {face.number}") for face in faces)
    return [(row, caption) for row, caption in rows if row is not None][:GALLERY]


def summary(
    faces: Sequence[RestoredFace], sizes: Sequence[Size], seconds: float, where: str, notes: Sequence[str]
) -> str:
    """One paragraph of Markdown: faces found, restored and left out and why; sizes before and after, time, `where`."""
    done = sum(face.status == "restored" for face in faces)
    if not faces:
        found = "**No face was found.** The photograph is enlarged only; a smaller least score may find more."
    else:
        found = f"**{_count(len(faces))} found: {done} restored, {len(faces) - done} left out.**"
        reasons: dict[str, list[str]] = {}
        for face in faces:
            if face.status != "restored":
                reasons.setdefault(kind_of(face.reason or "no reason given"), []).append(str(face.number))
        left_out = "; ".join(f"number {first_few(numbers)} ({reason})" for reason, numbers in reasons.items())
        found += f" Left out: {left_out}." if left_out else ""
        found += f" The first {GALLERY} of them are shown one by one." if done > GALLERY else ""
    pixels = " to ".join(f"{width}x{height}" for width, height in sizes) + " pixels"
    converted = f" Converted: {', '.join(notes)}." if notes else ""
    return f"{found} {pixels} in {seconds:.1f} s, {where}.{converted}"


def _count(number: int) -> str:
    return "1 face" if number == 1 else f"{number} faces"


def report(faces: Sequence[RestoredFace], size: Size, about: dict[str, Any]) -> str:
    """What was found and done, as the JSON of `aminet restore`; `about` is what it says before the faces."""
    described = [describe_face(face) for face in faces]
    return as_text({"schema": SCHEMA, "width": size[0], "height": size[1], **about, "faces": described}) + "\n"
