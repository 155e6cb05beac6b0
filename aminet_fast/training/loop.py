"""`train`: from a configuration to a trained network."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from ..data import FaceDataset, open_faces
from ..network.checkpoint import CheckpointError
from .config import TrainConfig
from .faults.memory import gpu_full, machine_full
from .faults.signals import StopSignals
from .gan import fingerprint, load_perceptual
from .loss_scale import scale_on_cpu
from .recorder import Recorder
from .runs.folder import RunFolder, write_file
from .runs.logs import RunLog, tensorboard_writer
from .runs.record import changed, environment, record_start, recorded_before
from .runs.restart import PATIENCE, join, mark, restarts, resumed
from .runs.resume import check_faces, find_start, first_weights
from .session import Session
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
    deterministic = torch.are_deterministic_algorithms_enabled()
    accelerator, folder = _accelerator(config), RunFolder(config.folder())
    config = resumed(config, folder)
    try:
        with RunLog(accelerator.is_main_process) as log, StopSignals() as signals:
            trainer = _prepare(config, accelerator, folder, log)
            signals.training()
            try:
                return trainer.run(signals, callback)
            except torch.OutOfMemoryError as error:
                raise gpu_full(error, config, trainer.session) from error
            finally:
                trainer.recorder.close()
    except torch.OutOfMemoryError as error:
        raise gpu_full(error, config) from error
    except MemoryError as error:
        raise machine_full(config, error) from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # PyTorch's word for a MemoryError
            raise
        raise machine_full(config, error) from error
    finally:
        folder.release()
        torch.use_deterministic_algorithms(deterministic)
        accelerator.end_training()
        # Accelerate keeps one state a process and refuses another run in it at another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def _accelerator(config: TrainConfig) -> Accelerator:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is 'cuda' and PyTorch sees no GPU; use --device cpu, or install a CUDA build of PyTorch"
        )
    cpu = config.device == "cpu" or not torch.cuda.is_available()
    join("gloo" if cpu else "nccl")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.accumulate,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        scale_on_cpu(accelerator)
    if config.cuda_graph and accelerator.num_processes > 1:
        raise ValueError("cuda_graph captures the step of one process; leave it out where there are several")
    return accelerator


def _prepare(config: TrainConfig, accelerator: Accelerator, folder: RunFolder, log: RunLog) -> Trainer:
    """Check everything that can be wrong, and only then touch the run folder."""
    if config.tensorboard:
        tensorboard_writer()
    start = find_start(config, folder, log.warn)
    weights = first_weights(config) if start is None else None
    perceptual = load_perceptual(config.gan)
    with accelerator.main_process_first():  # one process decodes the faces, the others find them in the cache
        faces, validator = _open_faces(config, accelerator)
    if start is not None:
        world, vgg = accelerator.num_processes, fingerprint(perceptual)
        check_faces(start, faces.fingerprint, world, config.names_checkpoint, log.warn, vgg)
    accelerator.wait_for_everyone()  # every process has looked at the folder before one fills it
    if accelerator.is_main_process:
        folder.prepare()
        mark(folder)
        log.open(folder.log)
        _record(config, accelerator, folder, log, faces, validator, start)
    accelerator.wait_for_everyone()
    session = _session(config, accelerator, faces, start, weights, perceptual)
    if start is not None:
        restart = f", after restart {restarts()} by torchrun" if restarts() else ""
        log.say(f"going on from step {session.step}{restart}")
    return Trainer(session, Recorder(session, folder, log, validator), folder, log)


def _record(
    config: TrainConfig,
    accelerator: Accelerator,
    folder: RunFolder,
    log: RunLog,
    faces: FaceDataset,
    validator: Validator | None,
    start: dict[str, Any] | None,
) -> None:
    """Write config.yaml and runs.jsonl; say in one line what is not as recorded."""
    held_out = validator.faces if validator is not None else None
    ran_on = environment(config, accelerator.device, accelerator.num_processes, faces, held_out)
    before = recorded_before(config, folder)
    if config.resume == "auto" and "started from" in before and start is not None:
        ran_on["started from"] = before["started from"]
    if differing := changed(before, ran_on):
        log.warn(f"not as recorded: {differing}; the numbers may not be the same in every digit")
    step = start["step"] if start is not None else 0
    complete = step >= config.total_steps(len(faces), accelerator.num_processes)
    # Whoever runs from config.yaml goes on with this run, however this one was started.
    again = dataclasses.replace(config, resume="auto", recorded=before if complete else ran_on)
    try:
        write_file(folder.config, lambda file: file.write(again.to_yaml().encode()))
        if not complete:
            record_start(folder.runs, config, ran_on, step, faces, held_out)
    except OSError as error:
        raise OSError(f"cannot write the run folder {folder.root}: {error.strerror or error}") from error


def _session(
    config: TrainConfig, accelerator: Accelerator, faces: FaceDataset, start: dict[str, Any] | None, *others: Any
) -> Session:
    try:
        return Session(config, accelerator, faces, start, *others)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        if start is None:
            raise
        reason = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise CheckpointError(f"the checkpoint of step {start['step']} does not fit this run: {reason}") from error


def _open_faces(config: TrainConfig, accelerator: Accelerator) -> tuple[FaceDataset, Validator | None]:
    faces = open_faces(config.data, "train", augment=config.augment)
    if not faces.has_hr:
        raise ValueError("the training faces have no HR pictures to learn from; give others with --data.root")
    if not config.val_every and not config.panel_every:
        return faces, None
    held_out = open_faces(config.data, "val") if config.val is None else open_faces(config.val, "all")
    return faces, Validator(held_out, config, accelerator)
