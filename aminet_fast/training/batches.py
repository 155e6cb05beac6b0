"""Batches of training faces, on every process its own, and what is said when one cannot be loaded."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from multiprocessing.connection import wait
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import FaceDataset, StepSampler
from .signals import outlive_signals

Batch = dict[str, Any]  # "input", "hr": [N, 3, S, S]; "name": list of str


def train_batches(
    faces: FaceDataset,
    *,
    batch_size: int,
    seed: int,
    workers: int,
    accumulate: int,
    step: int,
    steps: int,
    rank: int,
    world: int,
    pin: bool,
) -> Iterator[Batch]:
    """The batches from optimiser step ``step`` on to ``steps``, ``accumulate`` of them a step.

    The loader is not given to Accelerate: its sharding deals a sampler's batches to the processes in turn,
    and knows nothing of a stream that is entered at any step. `StepSampler` shards by rank itself, so that a
    resumed run gets exactly the rest.
    """
    sampler = StepSampler(
        len(faces),
        batch_size,
        seed=seed,
        start_step=step * accumulate,
        steps=(steps - step) * accumulate,
        rank=rank,
        world=world,
    )
    loader: DataLoader[Any] = DataLoader(
        faces,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=outlive_signals,
        # The loader draws a base seed when it starts; from PyTorch's generator a resumed run would draw one more.
        generator=torch.Generator().manual_seed(seed),
    )
    return iter(loader)


def to_device(pictures: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """pictures [N, 3, H, W], copied without waiting when they lie in pinned memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return pictures.to(device, non_blocking=True, memory_format=layout)


class LoaderError(RuntimeError):
    """The next batch could not be loaded; the message says why, and what to do."""


def guarded(batches: Iterator[Batch], *, workers: int, batch_size: int) -> Generator[Batch, None, None]:
    """The same batches; whatever ends them early is a LoaderError, and comes when a batch is asked for, not before.

    Closing it ends the loader's processes. ``workers`` and ``batch_size`` are the run's, for advice.
    """
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                raise LoaderError(explain(error, _ended(batches, error), workers, batch_size)) from error
            yield batch
    finally:
        # The loader would do this when nobody refers to it, and the traceback of an error does, until the program ends:
        # too late, for it then waits for processes that still wait for work.
        getattr(batches, "_shutdown_workers", lambda: None)()


def explain(error: Exception, ended: list[int], workers: int, batch_size: int) -> str:
    """One line for an error of a loader.

    Args:
        error: What the loader raised.
        ended: Exit codes of the loader processes that are no more.
        workers, batch_size: The run's, for advice on its options.
    """
    text = str(error)
    fewer = f"--workers (now {workers}) or --batch_size (now {batch_size})"
    if "No space left on device" in text and "torch_" in text:
        return f"/dev/shm, through which loader processes hand over pictures, is full: enlarge it, or lower {fewer}"
    if isinstance(error, MemoryError) or "Cannot allocate memory" in text:
        return f"the machine's memory is full while loading faces: lower {fewer}"
    if "Too many open files" in text or "ancdata" in text:
        return "too many open files while loading faces: raise the limit (ulimit -n), or use --workers 0"
    if ended and not text.startswith("Caught "):  # its end has many faces: a connection that is reset, too
        return f"a loader process ended {_cause(ended[0], fewer)}"
    if text.startswith("Caught "):  # in a loader process, whose traceback this is
        text = text.strip().splitlines()[-1].removeprefix("OSError: ")
    return f"the next faces could not be loaded: {text}; start again, which builds the face cache anew where it must"


def _cause(code: int, fewer: str) -> str:
    if code == -getattr(signal, "SIGKILL", 0):
        return f"by SIGKILL, which is how the system ends processes when its memory is full: lower {fewer}"
    if code == -getattr(signal, "SIGBUS", 0):
        return (
            "by SIGBUS: a file of the face cache was cut short while it was read, or /dev/shm is full;"
            f" start again, which checks the cache, or lower {fewer}"
        )
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"


def _ended(batches: Any, error: Exception) -> list[int]:
    """Exit codes of the loader's processes that have failed, if it has any."""
    processes = getattr(batches, "_workers", [])
    if processes and isinstance(error, (ConnectionError, EOFError)):  # one of them is about to end
        ending = wait([process.sentinel for process in processes], timeout=10)
        for process in processes:
            if process.sentinel in ending:
                process.join(10)  # its files are closed a moment before it has an exit code
    return sorted(process.exitcode for process in processes if process.exitcode)
