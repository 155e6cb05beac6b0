"""``aminet profile``: measures a training run's parts, its loader alone, its steps, a validation and a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from ..data import FaceDataset, open_faces
from ..data.faces import select
from ..data.sources import list_faces
from ..output.atomic import atomic_write
from ..output.console import make_console
from ..training.accelerator import accelerated
from ..training.batches import Batch, to_device, train_batches
from ..training.config import TrainConfig
from ..training.objective import load_perceptual
from ..training.recorder import Recorder
from ..training.runs.folder import RunFolder
from ..training.runs.logs import RunLog
from ..training.session import Session
from ..training.validation import Validator
from .report import Figures, show, to_json

_FEW = 16  # validation faces that stand for all
_LOADER_SECONDS = 10.0


@dataclass
class ProfileConfig(TrainConfig):
    """Takes what a training run takes, runs some of its steps in no run folder, and says what bounds them.

    Args:
        profile_steps: Steps to measure; figures are medians over them.
        skip: Steps before the first measured one.
        json: Also write the figures to this file; - prints them alone.
    """

    profile_steps: int = 30
    skip: int = 5
    json: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("profile_steps", 1), ("skip", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least {least}")

    def training(self) -> TrainConfig:
        """The training run of these options."""
        names = [field.name for field in dataclasses.fields(TrainConfig)]
        return TrainConfig(**{name: getattr(self, name) for name in names})


def profile(config: ProfileConfig) -> int:
    """Measure, print, and with ``config.json`` write.

    Raises:
        ValueError: settings that cannot be, faces without HR, more than one process.
        OSError: the faces are not there, or no checkpoint can be written where the run would write it.
    """
    figures = measure(config)
    text = json.dumps(to_json(figures), indent=2) + "\n"
    if config.json == "-":
        print(text, end="")
        return 0
    show(figures, make_console())
    if config.json is not None:
        with atomic_write(Path(config.json)) as file:
            file.write(text.encode())
    return 0


def measure(config: ProfileConfig) -> Figures:
    """The figures of the run that ``config`` describes; raises as `profile` does."""
    run = config.training()
    run.network()  # a wrong preset or field is reported before anything is opened
    with accelerated(run.device, run.precision, run.accumulate) as accelerator:
        if accelerator.num_processes > 1:
            raise ValueError("profile measures one process; start it without torchrun or accelerate launch")
        perceptual = load_perceptual(run.gan)
        faces = open_faces(run.data, "train", augment=run.augment)
        if not faces.has_hr:
            raise ValueError("the training faces have no HR pictures to learn from; give others with --data.root")
        speed = loader_speed(faces, run, max(config.profile_steps, 2 * run.workers), accelerator.device)
        session = Session(run, accelerator, faces, None, perceptual=perceptual)
        return _figures(config, session, faces, speed)


def _figures(config: ProfileConfig, session: Session, faces: FaceDataset, speed: float) -> Figures:
    run, device = session.config, session.accelerator.device
    steps, batches = Steps(session), batches_of(faces, run, config.skip + config.profile_steps, device)
    for _ in range(config.skip):
        steps.measure(batches)
    measured = [steps.measure(batches) for _ in range(config.profile_steps)]
    memory = torch.cuda.max_memory_reserved() / torch.cuda.mem_get_info()[1] if device.type == "cuda" else 0.0
    options = ("preset", "batch_size", "accumulate", "precision", "augment", "compile", "cuda_graph")
    return Figures(
        parts=medians([parts for parts, _ in measured]),
        issue=medians([{"issue": issue} for _, issue in measured])["issue"],
        images=session.faces_a_step,
        loader=speed,
        workers=run.workers,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        validation=validation_seconds(session),
        checkpoint=checkpoint_seconds(session),
        val_every=run.val_every,
        checkpoint_every=run.checkpoint_every,
        device=device.type,
        memory=memory,
        options={name: getattr(run, name) for name in options} | {"gan": run.gan is not None},
    )


class Watch:
    """Times on the device's own clock: between two marks lies what was queued between them."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, float | torch.cuda.Event]] = []

    def mark(self, name: str) -> None:
        """What follows, up to the next mark, is ``name``."""
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, time.perf_counter()))

    def take(self) -> dict[str, float]:
        """Seconds by name since the last call; waits for the device. The last mark only ends."""
        if self._cuda:
            torch.cuda.synchronize()
        seconds: dict[str, float] = {}
        for (name, start), (_, end) in itertools.pairwise(self._marks):
            passed = start.elapsed_time(end) / 1e3 if isinstance(start, torch.cuda.Event) else end - start  # type: ignore[arg-type, operator]
            seconds[name] = seconds.get(name, 0.0) + passed
        self._marks.clear()
        return seconds


class Steps:
    """The steps of a training run, part by part; as in training but that each is waited for."""

    def __init__(self, session: Session) -> None:
        self.session, self.config = session, session.config
        self.device = session.accelerator.device
        self._watch = Watch(self.device)

    def measure(self, batches: Iterator[Batch]) -> tuple[dict[str, float], float]:
        """One step: seconds of each part, and those in which the CPU gave out work."""
        waited = issued = 0.0
        parts: dict[str, float] = {}
        for last in (k == self.config.accumulate - 1 for k in range(self.config.accumulate)):
            started = time.perf_counter()
            batch = next(batches)
            waited, started = waited + time.perf_counter() - started, time.perf_counter()
            self._graphed(batch) if self.config.cuda_graph else self._plain(batch, last)
            issued += time.perf_counter() - started
            for name, seconds in self._watch.take().items():
                parts[name] = parts.get(name, 0.0) + seconds
        return {"loader": waited, **parts}, issued if self.device.type == "cuda" else 0.0

    def _pictures(self, batch: Batch) -> list[torch.Tensor]:
        self._watch.mark("copy")
        return [to_device(batch[k], self.device, self.config.channels_last) for k in ("input", "hr")]

    def _plain(self, batch: Batch, last: bool) -> None:
        s, watch = self.session, self._watch
        with s.accelerator.accumulate(*s.objective.networks()):
            given, wanted = self._pictures(batch)
            watch.mark("forward")
            losses = s.objective.losses(given, wanted)
            watch.mark("backward")
            for loss in losses.backward:
                s.accelerator.backward(loss)
            watch.mark("optimizer")
            s.objective.step()
            if last:
                s.shadow.update(1)
            watch.mark("")

    def _graphed(self, batch: Batch) -> None:
        pictures = self._pictures(batch)
        self._watch.mark("graph")
        self.session.graphed_step(pictures)
        self.session.shadow.update(1)
        self._watch.mark("")


def medians(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(step[name] for step in steps) for name in steps[0]}


def batches_of(faces: FaceDataset, config: TrainConfig, steps: int, device: torch.device) -> Iterator[Batch]:
    return train_batches(
        faces,
        batch_size=config.batch_size,
        seed=config.seed,
        workers=config.workers,
        accumulate=config.accumulate,
        step=0,
        steps=steps,
        rank=0,
        world=1,
        pin=device.type == "cuda",
    )


def loader_speed(faces: FaceDataset, config: TrainConfig, steps: int, device: torch.device) -> float:
    """Images a second of the loader when nothing else is done, over ``steps`` batches or some ten seconds.

    What its processes had ready before the clock was started is not counted.
    """
    ahead = 2 * config.workers + 1
    batches = batches_of(faces, config, ahead + steps + 1, device)
    for _ in range(ahead):
        next(batches)
    started, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch["input"])
        if time.perf_counter() - started > _LOADER_SECONDS:
            break
    return images / (time.perf_counter() - started)


def validation_seconds(session: Session) -> float | None:
    """Seconds of a whole validation, from some of its faces; None when the run has none."""
    config = session.config
    if not config.val_every:
        return None
    data, split = (config.data, "val") if config.val is None else (config.val, "all")
    count = len(select(list_faces(data), data, split))  # type: ignore[arg-type]
    faces = open_faces(data, split)  # type: ignore[arg-type]
    few = torch.utils.data.Subset(faces, range(min(_FEW, len(faces))))
    few.has_hr = faces.has_hr  # type: ignore[attr-defined]
    validator = Validator(
        few,  # type: ignore[arg-type]
        session.accelerator,
        batch_size=config.batch_size,
        channels_last=config.channels_last,
        panel_faces=config.panel_faces,
    )
    validator.score(session.shadow.model())  # scores bicubic too, which is done once in a run
    started = time.perf_counter()
    validator.score(session.shadow.model())
    return (time.perf_counter() - started) * count / len(few)


def checkpoint_seconds(session: Session) -> float:
    """Seconds of one checkpoint with its weights for users, on the disk that the run would write to.

    Raises OSError when nothing can be written there.
    """
    root = session.config.folder().absolute()
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())
    with (
        tempfile.TemporaryDirectory(prefix=".profile-", dir=place) as name,
        RunFolder(Path(name)) as folder,
        RunLog(False) as log,
    ):
        folder.prepare()
        recorder = Recorder(session, folder, log, None)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            recorder.save()
            seconds.append(time.perf_counter() - started)
        recorder.close()
        if recorder.save_failed:
            raise OSError(f"no checkpoint could be written in {place}; is the disk full?")
    return median(seconds)
