"""One photograph's files: read, written as a PNG with a JSON beside it, and said in a line."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .. import __version__
from ..data import ImageError, Picture, read_image
from ..output.atomic import atomic_writes
from .photograph import RestoredFace
from .plan import Job
from .sizes import photograph_too_large_for_memory, read_header

SCHEMA = 1  # of the JSON; docs/restoration.md describes it
MAX_PIXELS = 256_000_000
_BEGINNING = '{\n  "schema": '
# zlib's own is 6: it takes three times as long, for files that are a twentieth smaller.
_COMPRESSION = 4


class Photograph(NamedTuple):
    """A photograph read for a job: upright, mode L, LA, RGB or RGBA."""

    job: Job
    image: Image.Image
    icc: bytes | None


def json_path(target: Path) -> Path:
    """Where the JSON of a result goes."""
    return target.with_suffix(".json")


def refuse_foreign(jobs: Sequence[Job], detector: str) -> None:
    """Raises ValueError where a JSON that no such command wrote, or the detector's own file, would be replaced.

    One that is ours and has no picture beside it is what a power cut leaves: it is made anew.
    """
    given = Path(detector).expanduser().resolve()
    for job in jobs:
        path = json_path(job.target)
        if given in (path.resolve(), job.target.resolve()):
            raise ValueError(f"a result would overwrite the detector's {detector}; choose another --out")
        if path.exists() and not _is_ours(path):
            raise ValueError(f"{path} is there and no aminet restore wrote it; choose another --out, or move it away")


def _is_ours(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_BEGINNING)) == _BEGINNING.encode()


def load(job: Job, scale: int, notes: Counter[str]) -> Photograph:
    """Reads a photograph whose result the memory holds; raises ImageError for any other."""
    header = read_header(job.source, checked=False)
    if header is not None and header.size[0] * header.size[1] <= MAX_PIXELS:
        reason = photograph_too_large_for_memory(header, scale)
        if reason:
            raise ImageError(job.source, reason)
    picture = read_image(job.source, max_pixels=MAX_PIXELS)
    image, icc, said = as_photograph(picture)
    notes.update(said)
    return Photograph(job, image, icc)


def as_photograph(picture: Picture) -> tuple[Image.Image, bytes | None, list[str]]:
    """The picture, grey where its file is, with its alpha (L, LA, RGB, RGBA); its ICC profile; what was converted."""
    kept = ("alpha channel",) if not picture.grey else ("alpha channel", "L to RGB", "LA to RGB", "1 to RGB")
    image = picture.rgb.getchannel(0) if picture.grey else picture.rgb
    if picture.alpha is not None:
        image.putalpha(picture.alpha)
    return image, picture.icc, [note for note in picture.notes if note not in kept]


def save(image: Image.Image, photograph: Photograph, description: dict[str, Any], *, note: bool) -> None:
    """Writes the PNG and its JSON, both or none.

    The JSON is put in its place first: a run that goes on looks for the PNG, and one that is there has its JSON.
    Pillow writes PNG through the file's own write(), which leaves the system's error as it is.

    Raises:
        OSError: the file system refuses.
    """
    text = as_text(description)
    with atomic_writes(json_path(photograph.job.target), photograph.job.target) as (beside, file):
        beside.write(f"{text}\n".encode())
        write_png(image, file, photograph.icc, note_of(description["faces"]) if note else None)


def write_png(image: Image.Image, file: BinaryIO | Path, icc: bytes | None, note: PngInfo | None) -> None:
    """Writes a result with its profile and texts, and nothing else of what the picture carries of its source."""
    image.info = {}
    image.save(file, format="PNG", icc_profile=icc, pnginfo=note, compress_level=_COMPRESSION)


def as_text(description: dict[str, Any]) -> str:
    """JSON with a face on each line."""
    text = json.dumps({**description, "faces": []}, indent=2)
    assert text.startswith(_BEGINNING)
    faces = ",\n".join(f"    {json.dumps(face)}" for face in description["faces"])
    return text.replace('"faces": []\n}', f'"faces": [\n{faces}\n  ]\n}}') if faces else text


def note_of(faces: Sequence[dict[str, Any]]) -> PngInfo:
    """The texts of a PNG whose faces `describe_face` describes: the program, and how many of them it made up."""
    info = PngInfo()
    info.add_text("Software", f"aminet_fast {__version__}")
    restored = sum(face["status"] == "restored" for face in faces)
    if restored:
        info.add_text(
            "Description",
            f"{restored} of the faces in this picture {'was' if restored == 1 else 'were'} synthesised by aminet_fast "
            "from a few pixels each. They must not be used to identify people.",
        )
    return info


def describe_face(restored: RestoredFace) -> dict[str, Any]:
    """What the JSON says of a face; lengths in pixels of the photograph, to a hundredth."""
    face = restored.face
    return {
        "number": restored.number,
        "box": [_rounded(value) for value in face.box],
        "points": [[_rounded(x), _rounded(y)] for x, y in face.points],
        "score": _rounded(face.score, 4),
        "eye_distance": _rounded(face.eye_distance),
        "roll": _rounded(face.roll),
        "status": restored.status,
        "reason": restored.reason,
        "scale": None if restored.scale is None else _rounded(restored.scale, 4),
    }


def _rounded(value: float, digits: int = 2) -> float:
    return round(float(value), digits)


def in_a_line(source: Path, target: Path, faces: Sequence[RestoredFace]) -> str:
    """What became of a photograph: "a.jpg: 3 faces, 2 restored, 1 left out (1 too large) -> out/a.png"."""
    if not faces:
        return f"{source}: no face found, enlarged without one -> {target}"
    restored = sum(face.status == "restored" for face in faces)
    said = [f"{len(faces)} face{'' if len(faces) == 1 else 's'}", f"{restored} restored"]
    reasons = Counter(kind_of(face.reason or "no reason") for face in faces if face.status != "restored")
    if reasons:
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        said.append(f"{sum(reasons.values())} left out ({why})")
    return f"{source}: {', '.join(said)} -> {target}"


def kind_of(reason: str) -> str:
    """A reason without the figures of one face, so that they can be counted."""
    return re.sub(r"^turned by .*", "turned too far", re.split(r" \(|:", reason, maxsplit=1)[0])
