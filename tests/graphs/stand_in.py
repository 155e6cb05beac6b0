"""CUDA graphs where there are none: a replay runs what was captured again, and its result goes where that lay."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from aminet_fast.graphs import capture as graph_capture


class _Replay:
    def __init__(self, run: Callable[[], Tensor], result: Tensor) -> None:
        self.run, self.result = run, result

    def replay(self) -> None:
        found = self.run()
        assert not found.requires_grad  # or a true graph would keep all activations
        self.result.copy_(found)


class StandIn:
    """A graph_capture.Recorder. A capture computes nothing, so what it returns is poison until the first replay."""

    def __init__(self, result: Callable[[Callable[[], Tensor]], Tensor]) -> None:
        self.result, self.captures, self.warmed = result, 0, 0

    def warm(self, run: Callable[[], object]) -> None:
        for _ in range(graph_capture.WARMUP):
            run()
        self.warmed += 1

    def capture(self, run: Callable[[], Tensor]) -> tuple[_Replay, Tensor]:
        self.captures += 1
        result = self.result(run).fill_(torch.nan)
        return _Replay(run, result), result

    @contextmanager
    def turn(self) -> Iterator[None]:
        yield

    def memory(self) -> int:
        return 1


def stand_in(monkeypatch: pytest.MonkeyPatch, result: Callable[[Callable[[], Tensor]], Tensor]) -> StandIn:
    """From now on every device has graphs. result(run) makes room for what run returns, and changes nothing."""
    recorder = StandIn(result)
    monkeypatch.setattr(graph_capture, "recorder_on", lambda device, who: recorder)
    return recorder
