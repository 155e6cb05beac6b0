"""A memory that is full: the largest batch that should fit, and the options that keep the step the same."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import torch

from .config import TrainConfig
from .objective import LOSSES
from .session import Session

SPARE = 0.05  # share of the memory left free: the allocator cannot use every gap


class MemoryFullError(RuntimeError):
    """The memory of the GPU, or of the machine, is full; the message says what makes the run smaller."""


def memory_full(error: Exception, config: TrainConfig, session: Session | None) -> MemoryFullError | None:
    """What to say of an error of a run that had come as far as ``session``; None when it is about something else."""
    if isinstance(error, torch.OutOfMemoryError):
        return gpu_full(error, config, session)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # PyTorch's word for a MemoryError
        return machine_full(error, config.batch_size, config.workers)
    return None


def largest_batch(measure: Callable[[int], int], room: int, below: int) -> int:
    """The most faces a step should find memory for, less than ``below``; 0 when one is too many.

    A step takes so much and so much more for each face. Batches of 1, 2, 4, ... faces are measured until one does not
    fit; the line through the last two that do gives the answer.

    Args:
        measure: Bytes in use at the peak of a step of that many faces; it may raise torch.OutOfMemoryError.
        room: Bytes there are, of which `SPARE` stays free.
        below: A batch size that did not fit.
    """
    room = int(room * (1 - SPARE))
    measured: list[tuple[int, int]] = []
    size, limit = 1, below - 1
    while size <= limit:
        try:
            peak = measure(size)
        except torch.OutOfMemoryError:
            peak = room + 1
        if peak > room:
            limit = size - 1
            break
        measured.append((size, peak))
        size *= 2
    if len(measured) < 2:
        return len(measured)
    (few, less), (many, more) = measured[-2:]
    face = max(1.0, (more - less) / (many - few))
    return min(limit, many + int((room - more) / face))


def same_step(batch_size: int, accumulate: int, fits: int) -> tuple[int, int]:
    """Batch size of at most ``fits`` and the batches a step that together take as many faces as now."""
    faces = batch_size * accumulate
    size = next(n for n in range(min(fits, faces), 0, -1) if faces % n == 0)
    return size, faces // size


def step_memory(session: Session) -> Callable[[int], int]:
    """Measures the peak of a forward and backward pass over some faces on the session's GPU.

    The session is of no use afterwards: its BatchNorm has seen black pictures.
    """
    net, config, device = session.net, session.config, session.accelerator.device
    side = config.data.size
    # Adam's two averages are there from the first step on only.
    to_come = 0 if session.optimizer.state else 2 * sum(p.numel() * p.element_size() for p in net.parameters())

    def measure(faces: int) -> int:
        net.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        pictures = torch.zeros(faces, 3, side, side, device=device)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
            loss = LOSSES[config.loss](net(pictures), pictures)
        loss.backward()
        return torch.cuda.max_memory_allocated(device) + to_come

    return measure


def gpu_full(error: torch.OutOfMemoryError, config: TrainConfig, session: Session | None = None) -> MemoryFullError:
    """What to do about it: by measurement where there is a session, its network is not compiled, which would take
    minutes for each batch size, and its step is the network's alone.
    """
    reason = str(error).split(".")[0]
    traceback.clear_frames(error.__traceback__)  # they hold the pictures and the graph of the step that failed
    if session is None or config.compile or config.gan is not None or not _is_gpu(session):
        return MemoryFullError(_advice(config, None, reason))
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(session.accelerator.device)
    room = free + torch.cuda.memory_reserved(session.accelerator.device)
    try:
        fits = largest_batch(step_memory(session), room, config.batch_size)
    except RuntimeError:  # a GPU in such a state may refuse anything
        return MemoryFullError(_advice(config, None, reason))
    return MemoryFullError(_advice(config, fits, reason))


def _is_gpu(session: Session) -> bool:
    return bool(session.accelerator.device.type == "cuda")


def _advice(config: TrainConfig, fits: int | None, reason: str) -> str:
    start = f"the GPU's memory is full with batch_size {config.batch_size}"
    smaller = "--precision bf16 or a narrower --preset"
    if fits is None:
        return f"{start}; halve it and double --accumulate, use {smaller} ({reason})"
    if fits == 0:
        return f"{start}, and one face is too many by a measurement; use {smaller} ({reason})"
    if config.cuda_graph:
        return f"{start}; about {fits} should fit by a measurement of smaller batches; or use {smaller} ({reason})"
    size, accumulate = same_step(config.batch_size, config.accumulate, fits)
    return (
        f"{start}; about {fits} should fit by a measurement of smaller batches, and"
        f" --batch_size {size} --accumulate {accumulate} keeps the step as it is; or use {smaller} ({reason})"
    )


def machine_full(error: Exception, batch_size: int, workers: int) -> MemoryFullError:
    """For the memory that is not the GPU's."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return MemoryFullError(
        f"the machine's memory is full: lower --batch_size (now {batch_size}) and raise --accumulate, or lower"
        f" --workers (now {workers}) ({reason})"
    )
