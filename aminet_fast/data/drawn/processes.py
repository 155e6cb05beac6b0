"""Drawing in several processes: in threads it gains nothing, for most of it is Python.

They are child processes of their own that take seeds and give pixels through pipes. Those of `multiprocessing`
would import the caller's script again, which fails without its `if __name__ == "__main__"`, or be forks of a
process whose threads (torch's) may hold locks that nobody in the fork releases.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from PIL import Image

from . import draw_face

log = logging.getLogger(__name__)

# What an import prints must not get among the pixels: from the start it goes to stderr.
_PROGRAM = """
import os, sys
pixels = os.dup(1)
os.dup2(2, 1)
sys.path[:] = sys.argv[1:]
from aminet_fast.data.drawn.processes import serve
serve(pixels)
"""
_PACKAGES = str(Path(__file__).resolve().parents[3])  # the folder that has aminet_fast


def serve(output: int) -> None:
    """Draw what stdin asks for, a seed and a size a line, until it ends; raw RGB to the file descriptor `output`."""
    with os.fdopen(output, "wb") as pipe:
        for line in sys.stdin:
            seed, size = map(int, line.split())
            pipe.write(draw_face(seed, size).tobytes())
            pipe.flush()


@contextmanager
def drawing(count: int) -> Iterator[Callable[[int, int], Image.Image]]:
    """Yields `draw_face` that runs in `count` processes, to be called from as many threads; they end with the block.

    A face whose process cannot start or has died is drawn by the caller instead, and a warning says so once. The
    pixels are the same whoever draws them.
    """
    processes = _start(count)
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    for process in processes:
        idle.put(process)

    def draw(seed: int, size: int) -> Image.Image:
        try:
            process = idle.get_nowait()
        except Empty:
            return draw_face(seed, size)
        pixels = _ask(process, seed, size)
        if pixels is None:
            log.warning("a process that draws faces ended early (status %s); going on without it", process.wait())
            return draw_face(seed, size)
        idle.put(process)
        return Image.frombytes("RGB", (size, size), pixels)

    try:
        yield draw
    finally:
        for process in processes:
            process.kill()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # a request that was never read
                    pipe.close()  # type: ignore[union-attr]
            process.wait()


def _start(count: int) -> list[subprocess.Popen[bytes]]:
    if count < 1 or not sys.executable or getattr(sys, "frozen", False):  # a frozen program is no interpreter
        return []
    command = [sys.executable, "-c", _PROGRAM, _PACKAGES, *map(str, sys.path)]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **one_thread},
                start_new_session=True,  # Ctrl-C is for the caller; these end when their stdin does
            )
            processes.append(process)
    except OSError as error:
        log.warning("cannot start a process that draws faces (%s); going on with %d", error, len(processes))
    return processes


def _ask(process: subprocess.Popen[bytes], seed: int, size: int) -> bytes | None:
    """The pixels of one face, or None when the process is gone."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(f"{seed} {size}\n".encode())
        process.stdin.flush()
        pixels = process.stdout.read(3 * size * size)
    except OSError:
        return None
    return pixels if len(pixels) == 3 * size * size else None
