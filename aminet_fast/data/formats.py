"""Which files are pictures: whatever the installed Pillow decodes, but for the formats named here.

A decision, so that opening a stranger's folder starts no other program and takes no measurements for colours. A plugin
that is registered with Pillow (pillow_heif for .heic) brings its endings by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

# format -> why Pillow may not open it for us
REFUSED = {
    "EPS": "a program that Ghostscript would have to run",
    "WMF": "a drawing, which only Windows renders",
    "BUFR": "weather data",
    "GRIB": "weather data",
    "HDF5": "an archive of measurements",
    "FITS": "measurements, not levels of colours",
    "MCIDAS": "measurements, not levels of colours",
    "SPIDER": "measurements, not levels of colours",
    "IPTC": "a caption without a picture of its own",
    "MPEG": "a film",
    "FLI": "a film",
}
# Endings of files that hold pictures, where nothing here opens them: nobody leaves these beside photographs by intent.
_PICTURES = """
    .3fr .ai .arw .avi .avif .cdr .cr2 .cr3 .dcm .dng .emf .eps .exr .fit .fits .flc .fli .gif .hdr .heic .heics .heif
    .hif .j2k .jng .jp2 .jpf .jpm .jpx .jxl .jxr .m4v .mkv .mov .mp4 .mpeg .mpg .nef .nrw .orf .pdf .pef .ps .psb .raf
    .raw .rw2 .sr2 .srw .svg .svgz .webm .webp .wmf .x3f .xcf
"""
UNOPENED = frozenset(_PICTURES.split())
_FILMS = frozenset([".avi", ".flc", ".fli", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"])
# What systems leave in folders, beside names that begin with a dot; nobody put these there.
_SYSTEMS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"})
_NAMED = 6


def readable() -> list[str]:
    """The formats that `PIL.Image.open` may try, the common ones first."""
    Image.preinit()
    Image.init()
    return [name for name in Image.ID if name not in REFUSED]


def suffixes() -> frozenset[str]:
    """Endings, in lower case, of the files that are taken out of a folder."""
    formats = {*readable(), "MPO"}  # MPO is opened as JPEG
    return frozenset(ending for ending, name in Image.registered_extensions().items() if name in formats)


def counts(name: str) -> bool:
    """Whether a file is somebody's: hidden ones and those that systems make are neither taken nor counted."""
    return not name.startswith(".") and name.lower() not in _SYSTEMS


def ending_of(name: str) -> str:
    """The ending by which a file is counted."""
    return Path(name).suffix.lower() or "without ending"


def pictures_among(left_out: Mapping[str, int]) -> Counter[str]:
    """Of files left out those that hold pictures, to judge by their endings."""
    return Counter({ending: count for ending, count in left_out.items() if ending in UNOPENED})


def in_words(left_out: Mapping[str, int]) -> str:
    """One line, the most frequent first: "3 .heic, 1 .txt, 7 others"; "" where there is nothing to say."""
    ranked = sorted(left_out.items(), key=lambda pair: (-pair[1], pair[0]))
    others = sum(count for _, count in ranked[_NAMED:])
    return ", ".join(
        [f"{count} {ending}" for ending, count in ranked[:_NAMED]] + ([f"{others} others"] if others else [])
    )


def why_not(path: Path) -> str:
    """Why Pillow opens a file for us not at all: "" where its ending tells nothing."""
    ending = path.suffix.lower()
    name = Image.registered_extensions().get(ending, "")
    if ending in _FILMS:
        return f"; {ending} is a film: save frames of it as PNG or JPEG first"
    if name in REFUSED:
        return f"; {ending} is {REFUSED[name]}: save it as PNG or JPEG first"
    return f"; this Pillow opens no {ending}: save it as PNG or JPEG first" if ending in UNOPENED - suffixes() else ""
