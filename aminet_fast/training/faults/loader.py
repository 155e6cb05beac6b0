"""What goes wrong while faces are loaded, in one line each."""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from multiprocessing.connection import wait
from typing import Any

from ..batches import Batch
from ..config import TrainConfig


class LoaderError(RuntimeError):
    """The next batch could not be loaded; the message says why, and what to do."""


def guarded(batches: Iterator[Batch], config: TrainConfig) -> Generator[Batch, None, None]:
    """The same batches; whatever ends them early is a LoaderError, and comes when a batch is asked for, not before.

    Closing it ends the loader's processes.
    """
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except Exception as error:
                raise LoaderError(explain(error, _ended(batches, error), config)) from error
            yield batch
    finally:
        # The loader would do this when nobody refers to it, and the traceback of an error does, until the program ends:
        # too late, for it then waits for processes that still wait for work.
        getattr(batches, "_shutdown_workers", lambda: None)()


def explain(error: Exception, ended: list[int], config: TrainConfig) -> str:
    """One line for an error of a loader.

    Args:
        error: What the loader raised.
        ended: Exit codes of the loader processes that are no more.
        config: The run's, for advice on its options.
    """
    text = str(error)
    fewer = f"--workers (now {config.workers}) or --batch_size (now {config.batch_size})"
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
