"""`train`: a run from its configuration to its exit status."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import torch
from accelerate import Accelerator

from ..adversarial import PerceptualLoss
from ..data import FaceDataset, open_faces
from ..network.checkpoint import CheckpointError
from ..network.model import AMINet
from .accelerator import accelerated, restarts
from .config import TrainConfig
from .memory import memory_full
from .objective import fingerprint, load_perceptual
from .recorder import Recorder
from .runs.folder import RunFolder
from .runs.logs import RunLog, tensorboard_writer
from .runs.record import record
from .runs.start import check_faces, find_start, first_network, mark, resumed
from .session import Session
from .signals import StopSignals
from .trainer import Callback, Trainer
from .validation import Validator


def train(config: TrainConfig, *, callback: Callback | None = None) -> int:
    """Train as ``config`` says, in its run folder, from its newest checkpoint if there is one.

    Args:
        config: What to train on what.
        callback: Called after every step with (steps done, loss); True saves and stops, as a signal does.
            With several processes it has to answer the same on each.

    Returns:
        0 when the run is complete or was stopped cleanly, 1 when its last checkpoint could not be written.

    Raises:
        ValueError: settings that cannot be, a run folder of another run, faces without HR.
        OSError: the run folder cannot be written, a file is not there.
        DivergedError: the loss is not finite; the step's faces were dumped in the run folder.
        LoaderError: a loader process was killed, or a file of the face cache has gone; a checkpoint was written.
        MemoryFullError: the memory of the GPU or of the machine is too small for these settings.
    """
    config.network()  # a wrong preset or field is reported before anything is opened
    session: Session | None = None
    with (
        accelerated(config.device, config.precision, config.accumulate) as accelerator,
        RunFolder(config.folder()) as folder,
        RunLog(accelerator.is_main_process) as log,
    ):
        if config.cuda_graph and accelerator.num_processes > 1:
            raise ValueError("cuda_graph captures the step of one process; leave it out where there are several")
        config = resumed(config, folder)
        try:
            with StopSignals() as signals:
                session, validator = _prepare(config, accelerator, folder, log)
                recorder = Recorder(session, folder, log, validator)
                signals.training()
                with closing(recorder):
                    return Trainer(session, recorder, folder, log).run(signals, callback)
        except (RuntimeError, MemoryError) as error:
            full = memory_full(error, config, session)
            if full is None:
                raise
            raise full from error


def _prepare(
    config: TrainConfig, accelerator: Accelerator, folder: RunFolder, log: RunLog
) -> tuple[Session, Validator | None]:
    """Check everything that can be wrong, and only then touch the run folder."""
    if config.tensorboard:
        tensorboard_writer()
    start = find_start(config, folder, log.warn)
    first = first_network(config) if start is None else None
    perceptual = load_perceptual(config.gan)
    with accelerator.main_process_first():  # one process decodes the faces, the others find them in the cache
        faces, validator = _open_faces(config, accelerator)
    world = accelerator.num_processes
    if start is not None:
        named, vgg = config.names_checkpoint, fingerprint(perceptual)
        check_faces(start, faces.fingerprint, vgg, world, named=named, warn=log.warn)
    accelerator.wait_for_everyone()  # every process has looked at the folder before one fills it
    if accelerator.is_main_process:
        folder.prepare()
        mark(folder)
        log.open(folder.log)
        record(
            config,
            folder,
            log.warn,
            device=accelerator.device,
            processes=world,
            faces=faces,
            held_out=validator.faces if validator is not None else None,
            start=start,
        )
    accelerator.wait_for_everyone()
    session = _session(config, accelerator, faces, start, first, perceptual)
    if start is not None:
        restart = f", after restart {restarts()} by torchrun" if restarts() else ""
        log.say(f"going on from step {session.step}{restart}")
    return session, validator


def _open_faces(config: TrainConfig, accelerator: Accelerator) -> tuple[FaceDataset, Validator | None]:
    faces = open_faces(config.data, "train", augment=config.augment)
    if not faces.has_hr:
        raise ValueError("the training faces have no HR pictures to learn from; give others with --data.root")
    if not config.val_every and not config.panel_every:
        return faces, None
    held_out = open_faces(config.data, "val") if config.val is None else open_faces(config.val, "all")
    validator = Validator(
        held_out,
        accelerator,
        batch_size=config.batch_size,
        channels_last=config.channels_last,
        panel_faces=config.panel_faces,
    )
    return faces, validator


def _session(
    config: TrainConfig,
    accelerator: Accelerator,
    faces: FaceDataset,
    start: dict[str, Any] | None,
    first: AMINet | None,
    perceptual: PerceptualLoss | None,
) -> Session:
    """As `Session` takes and gives it; a checkpoint that does not fit is a CheckpointError."""
    weights, licence = (None, None) if first is None else (first.state_dict(), first.expects.licence)
    try:
        return Session(config, accelerator, faces, start, weights, perceptual, licence)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        if start is None:
            raise
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise CheckpointError(f"the checkpoint of step {start['step']} does not fit this run: {reason}") from error
