"""``aminet profile``: what bounds a training step."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from rich.console import Console

from ..data import FaceDataset, open_faces
from ..output.atomic import atomic_write
from ..training.config import TrainConfig
from ..training.gan import load_perceptual
from ..training.loop import _accelerator
from ..training.session import Session
from .measure import Steps, batches_of, checkpoint_seconds, loader_speed, medians, validation_seconds
from .report import Figures, show, to_json


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
    show(figures, Console())
    if config.json is not None:
        with atomic_write(Path(config.json)) as file:
            file.write(text.encode())
    return 0


def measure(config: ProfileConfig) -> Figures:
    """The figures of the run that ``config`` describes; raises as `profile` does."""
    run = config.training()
    run.network()  # a wrong preset or field is reported before anything is opened
    deterministic = torch.are_deterministic_algorithms_enabled()
    accelerator = _accelerator(run)
    try:
        if accelerator.num_processes > 1:
            raise ValueError("profile measures one process; start it without torchrun or accelerate launch")
        perceptual = load_perceptual(run.gan)
        faces = open_faces(run.data, "train", augment=run.augment)
        if not faces.has_hr:
            raise ValueError("the training faces have no HR pictures to learn from; give others with --data.root")
        speed = loader_speed(faces, run, max(config.profile_steps, 2 * run.workers), accelerator.device)
        session = Session(run, accelerator, faces, None, perceptual=perceptual)
        return _figures(config, session, faces, speed)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        accelerator.end_training()
        AcceleratorState._reset_state(reset_partial_state=True)


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
