"""Files of faces, enlarged: read, enlarge a few at a time, write, account for each (``aminet upscale``)."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import nn

from ..data import ImageError, read_image
from ..network.expects import expects_of
from ..network.inference import Ensemble, check_ensemble, choose_device, load_network
from ..output.atomic import atomic_write, make_writable
from ..output.console import make_console
from ..output.listing import first_few
from .account import (
    Account,
    StopError,
    how_to_go_on,
    is_full_memory,
    keeps_panel,
    report,
    tell_stop,
    with_skip_existing,
    written,
)
from .comparison import PanelRows, check_panel, refuse_clash, save_rows
from .images import upscale_images
from .plan import FORMATS, Job, Plan, plan
from .sizes import header_size, refuse_too_large, shrunk, too_large_for_memory

_NO_ALPHA = {"JPEG", "BMP"}
_NO_ICC = {"BMP"}
_OPTIONS: dict[str, dict[str, int | str | bool]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_adobe_deflate"},
}
_AHEAD = 64 * 1024**2  # output pixels read ahead at most, to fill batches of one size
_LARGE = 64  # a short side above this is no low-resolution face
_FACE = 128  # a restored one
_TRIES = 8  # results of an earlier run that do not fit a panel, before no more are read for it


@dataclass
class UpscaleConfig:
    """Enlarges pictures as many times as the weights say, the package's eight times.

    Args:
        inputs: pictures, folders (with their subfolders) and globs such as 'faces/*.png'.
        out: folder for the results; names and subfolders are kept.
        weights: default (those that come with the package), run folder, pretrained folder, .safetensors file or
            checkpoint.
        lr_size: first shrink every picture until its short side has this many pixels, to try the network on
            pictures that are large already; the panel then shows the original as HR.
        format: keep JPEG, PNG, WebP, TIFF and BMP (others become PNG), or write png or jpg.
        force: overwrite results that exist.
        skip_existing: keep results that exist and make the others, to go on after Ctrl-C or a full disk. Whatever made
            them: other weights or another size are not noticed.
        panel: also write this picture: LR, bicubic and AMINet (and HR) of the first eight, side by side. With
            skip_existing those whose results exist are read from these, and a panel that exists is kept.
        tile: input pictures with a side above this many pixels are processed in overlapping tiles of this
            side, which bounds the memory; 0 never tiles.
        batch_size: results of 128x128 at a time; of larger ones fewer go together.
        device: auto, cpu, cuda, cuda:1, ...
        backend: what runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without
            it, AMINET_FAST_BACKEND, else auto.
        precision: fp32, or bf16 by autocast.
        ensemble: flip averages the results of each picture and of its mirror image: a little nearer to the original,
            in twice the time.
    """

    inputs: list[str] = field(default_factory=list)
    out: str = "upscaled"
    weights: str = "default"
    lr_size: int | None = None
    format: Literal["keep", "png", "jpg"] = "keep"
    force: bool = False
    skip_existing: bool = False
    panel: str | None = None
    tile: int = 64
    batch_size: int = 8
    device: str = "auto"
    backend: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    ensemble: Ensemble = "none"


class Loaded(NamedTuple):
    """A picture read for a job: `lr` goes to the network, `original` is what it was shrunk from, if it was."""

    job: Job
    lr: Image.Image
    icc: bytes | None
    original: Image.Image | None


def upscale(config: UpscaleConfig) -> int:
    """Runs ``aminet upscale``.

    Returns:
        Exit status: 0, or 1 when some picture failed or the work had to stop, after saying why.

    Raises:
        ValueError, OSError: settings, inputs, weights or folders that cannot be; nothing was done then.
    """
    _check(config)
    todo = plan(config.inputs, config.out, format=config.format, force=config.force, skip_existing=config.skip_existing)
    if config.panel:
        refuse_clash(config.panel, todo.every)
    account = Account(existing=len(todo.existing), left_out=todo.left_out)
    errors = make_console(stderr=True)
    # Also where nothing is left to do: a wrong setting is none the less wrong.
    model = load_network(config.weights, choose_device(config.device), config.backend)
    refuse_too_large(todo.jobs, scale=expects_of(model).scale, lr_size=config.lr_size)
    if todo.jobs:
        make_writable(config.out, "the results to")
    rows = None
    if config.panel and not keeps_panel(config.panel, account, skip_existing=config.skip_existing):
        rows = PanelRows(todo.every)
        make_writable(Path(config.panel).parent, "the panel to", "--panel")
    status = _work(model, todo, config, account, rows, errors)
    if status:
        return status
    report(
        account,
        len(todo.jobs),
        done="upscaled",
        out=config.out,
        weights=config.weights,
        console=make_console(),
        errors=errors,
    )
    return 1 if account.failed else 0


def _work(
    model: nn.Module, todo: Plan, config: UpscaleConfig, account: Account, rows: PanelRows | None, errors: Console
) -> int:
    """Does the jobs; returns 1 when it had to stop, after saying why and how to go on."""
    on = how_to_go_on(todo.jobs, force=config.force, skip_existing=config.skip_existing)
    scale = expects_of(model).scale
    try:
        with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
            task = bar.add_task("upscaling", total=len(todo.jobs))
            for chunk in _chunks(todo.jobs, config, account, scale):
                _process(model, chunk, config, account, rows)
                bar.update(task, completed=account.done + len(account.failed))
        if rows is not None and config.panel:
            how = with_skip_existing(force=config.force, skip_existing=config.skip_existing)
            on = f"{how} makes the panel"
            if Path(config.panel).exists():  # with --force, until it is replaced
                on += f" when the older {config.panel} is removed"
            _add_existing(rows, todo, config, account, scale)
            account.panel = save_rows(rows, config.panel, none="there is no picture to show")
    except (OSError, ValueError, StopError, KeyboardInterrupt) as error:
        tell_stop(error, account, len(todo.jobs), config.out, on, errors)
        if isinstance(error, KeyboardInterrupt):
            raise
        return 1
    return 0


def _add_existing(rows: PanelRows, todo: Plan, config: UpscaleConfig, account: Account, scale: int) -> None:
    """Adds those of the first eight whose results an earlier run made; what cannot be shown is noted."""
    kept = set(todo.existing)
    left_out: list[str] = []
    for job in todo.every:
        if job.target not in kept or not rows.wants(job):
            continue
        try:
            loaded = _load(job, config.lr_size, Account(), scale)
            result = read_image(job.target).rgb
            width, height = loaded.lr.width * scale, loaded.lr.height * scale
            if result.size != (width, height):
                reason = f"has {result.width}x{result.height} pixels, and these options give {width}x{height}"
                raise ImageError(job.target, reason)
            rows.add(job, loaded.lr, result, loaded.original)
        except ImageError as error:
            left_out.append(str(error))
            if len(left_out) == _TRIES:  # as it seems, all of them are like this
                break
    if left_out:
        account.notes[f"left out of the panel: {first_few(left_out, '; ')}"] += len(left_out)


def _check(config: UpscaleConfig) -> None:
    if config.lr_size is not None and config.lr_size < 1:
        raise ValueError(f"lr_size is {config.lr_size}, wanted at least 1 pixel")
    if config.tile != 0 and config.tile < 16:
        raise ValueError(f"tile is {config.tile}, wanted 0 (no tiles) or at least 16 pixels")
    if config.batch_size < 1:
        raise ValueError(f"batch_size is {config.batch_size}, wanted at least 1")
    check_ensemble(config.ensemble)
    if config.panel:
        check_panel(config.panel, force=config.force or config.skip_existing)


def _chunks(jobs: Sequence[Job], config: UpscaleConfig, account: Account, scale: int) -> Iterator[list[Loaded]]:
    """Reads pictures a few batches ahead; those that cannot be read go to the account."""
    chunk: list[Loaded] = []
    pixels = 0
    for job in jobs:
        try:
            loaded = _load(job, config.lr_size, account, scale)
        except ImageError as error:
            account.failed.append(str(error))
            continue
        size = loaded.lr.width * loaded.lr.height * scale**2
        if chunk and (pixels + size > _AHEAD or len(chunk) >= 4 * config.batch_size):
            yield chunk
            chunk, pixels = [], 0
        chunk.append(loaded)
        pixels += size
    if chunk:
        yield chunk


def _load(job: Job, lr_size: int | None, account: Account, scale: int) -> Loaded:
    size = header_size(job.source)
    if size and (reason := too_large_for_memory(shrunk(size, lr_size), scale)):
        raise ImageError(job.source, reason)
    picture = read_image(job.source)
    account.notes.update(note for note in picture.notes if note != "alpha channel")
    before = picture.rgb.size
    width, height = shrunk(before, lr_size)
    if lr_size is None and min(width, height) > _LARGE:
        face = max(1, _FACE // scale)
        account.notes[
            f"over {_LARGE} pixels: the network restores faces of about {face} pixels; crop a face, or try"
            f" --lr_size {face}"
        ] += 1
    elif lr_size is not None and min(before) <= lr_size:
        account.notes[f"not shrunk: the short side has {lr_size} pixels or fewer already"] += 1
    # Colour and alpha one by one: Pillow would weigh the colours of an RGBA picture by its alpha.
    lr = picture.rgb.resize((width, height), Image.Resampling.BICUBIC)
    if picture.alpha is not None:
        lr.putalpha(picture.alpha.resize((width, height), Image.Resampling.BICUBIC))
    return Loaded(job, lr, picture.icc, picture.rgb if lr.size != picture.rgb.size else None)


def _process(
    model: nn.Module, chunk: Sequence[Loaded], config: UpscaleConfig, account: Account, rows: PanelRows | None
) -> None:
    """Enlarges and writes the pictures of one chunk."""
    results = None
    try:
        results = upscale_images(
            model,
            [loaded.lr for loaded in chunk],
            batch_size=config.batch_size,
            tile=config.tile,
            autocast=config.precision == "bf16",
            ensemble=config.ensemble,
        )
    except (RuntimeError, MemoryError) as error:
        if not is_full_memory(error):
            raise
    if results is None:  # tried again out here: while there is an error, its traceback keeps the tensors that it met
        _with_less_memory(model, chunk, config, account, rows)
        return
    for loaded, result in zip(chunk, results, strict=True):
        target = loaded.job.target
        write = partial(save, result, target, loaded.icc, account.notes)
        if written(account, target, write) and rows is not None:
            rows.add(loaded.job, loaded.lr, result, loaded.original)


def _with_less_memory(
    model: nn.Module, chunk: Sequence[Loaded], config: UpscaleConfig, account: Account, rows: PanelRows | None
) -> None:
    """After the memory was full: one picture after the other; one that alone is too large fails, the rest goes on."""
    if len(chunk) > 1:
        account.notes["out of memory: the pictures were done one by one; lower --batch_size"] += 1
        for loaded in chunk:
            _process(model, [loaded], config, account, rows)
        return
    width, height = chunk[0].lr.size
    account.failed.append(
        f"{chunk[0].job.source}: out of memory at {width}x{height} pixels; lower --tile (now {config.tile}), or crop it"
    )


def save(image: Image.Image, target: Path, icc: bytes | None, notes: Counter[str]) -> None:
    """Writes a picture in its suffix's format, whole or not at all; counts what is dropped in `notes`.

    Raises:
        OSError: the file system refuses; or, without errno, the format cannot hold the picture.
    """
    format = FORMATS[target.suffix.lower()]
    if image.mode == "RGBA" and format in _NO_ALPHA:
        notes[f"alpha dropped: {format} has none (use --format png to keep it)"] += 1
        image = image.convert("RGB")
    if icc and format in _NO_ICC:
        notes[f"ICC profile dropped: {format} has none (use --format png to keep it)"] += 1
        icc = None
    data = io.BytesIO()  # Pillow's own writing to a file hides the system's error number
    image.save(data, format=format, icc_profile=icc, **_OPTIONS.get(format, {}))
    with atomic_write(target) as file:
        file.write(data.getbuffer())
