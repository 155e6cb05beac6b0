"""How work is captured in CUDA graphs and replayed, for inference and training alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

T = TypeVar("T")
WARMUP = 3  # Triton and cuDNN compile, tune and load at the first calls, which no capture may see

_log = logging.getLogger("aminet_fast")


class Recorder:
    """Captures on one stream of a CUDA device, into one memory pool, and replays what it captured one by one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()
        self._done = torch.cuda.Event()

    def warm(self, run: Callable[[], object]) -> None:
        """Runs it WARMUP times, on the stream of the capture: autograd's nodes remember where they were made."""
        with torch.cuda.device(self.device):
            here = torch.cuda.current_stream()
            self._stream.wait_stream(here)
            with torch.cuda.stream(self._stream):
                for _ in range(WARMUP):
                    run()
            here.wait_stream(self._stream)

    def capture(self, run: Callable[[], T]) -> tuple[Any, T]:
        """The graph of a call of run, and what that returned: tensors whose values each replay writes anew."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device):
            # cuBLAS keeps a workspace for each stream. Made and let go of here, this graph's lies in its own pool:
            # eager work cannot write to it, nor can the end of another graph of this stream free it.
            torch._C._cuda_clearCublasWorkspaces()
            try:
                # Only this thread is watched: a loader's threads may go on pinning memory.
                mode = "thread_local"
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode=mode):
                    result = run()
            finally:
                torch._C._cuda_clearCublasWorkspaces()
        return graph, result

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What is queued inside comes after what was queued in the last turn, on whichever stream that was.

        Graphs of one pool share its memory, and all callers the static buffers.
        """
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._done)
            try:
                yield
            finally:
                self._done.record(stream)

    def memory(self) -> int:
        """Bytes of the device's memory in the pool."""
        segments = torch.cuda.memory_snapshot()
        return sum(s["total_size"] for s in segments if tuple(s["segment_pool_id"]) == tuple(self._pool))


def recorder_on(device: torch.device, who: str) -> Recorder | None:
    """None, with a line in the log, for a device that has no CUDA graphs."""
    if device.type == "cuda":
        return Recorder(device)
    _log.warning("%s: %s has no CUDA graphs; every call runs as plain PyTorch", who, device)
    return None
