"""The largest batch that should fit, and what is said when memory is full."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from aminet_fast.network.model import AMINet
from aminet_fast.training import memory, train
from aminet_fast.training.memory import MemoryFullError, largest_batch, same_step
from aminet_fast.training.trainer import Trainer
from tests.training.tiny import tiny


def card(base: int, face: int, room: int) -> tuple[Callable[[int], int], list[int]]:
    """A GPU of ``room`` bytes, on which a step takes base + n * face, and the sizes it was asked for."""
    asked: list[int] = []

    def measure(faces: int) -> int:
        asked.append(faces)
        if base + faces * face > room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return base + faces * face

    return measure, asked


@pytest.mark.parametrize(
    ("base", "face", "below", "wanted"),
    [
        (100, 50, 32, 17),  # 0.95 * 1000 = 950 = 100 + 17 * 50
        (100, 50, 12, 11),  # not more than what has failed
        (0, 300, 32, 3),
        (600, 300, 32, 1),  # one face alone: no line to draw
        (900, 60, 32, 0),
        (2000, 60, 32, 0),
        (100, 0, 9, 8),  # a step that takes no more for more faces
    ],
)
def test_largest_batch(base: int, face: int, below: int, wanted: int) -> None:
    measure, asked = card(base, face, 1000)
    assert largest_batch(measure, 1000, below) == wanted
    assert asked == [2**n for n in range(len(asked))]
    assert max(asked) < below


def test_a_batch_of_one_has_nothing_below_it() -> None:
    measure, asked = card(0, 2000, 1000)
    assert largest_batch(measure, 1000, 1) == 0
    assert asked == []


@pytest.mark.parametrize(
    ("now", "fits", "wanted"),
    [((32, 1), 20, (16, 2)), ((32, 2), 31, (16, 4)), ((24, 1), 9, (8, 3)), ((7, 1), 6, (1, 7)), ((8, 1), 50, (8, 1))],
)
def test_the_step_stays_the_same(now: tuple[int, int], fits: int, wanted: tuple[int, int]) -> None:
    assert same_step(*now, fits) == wanted
    assert wanted[0] * wanted[1] == now[0] * now[1]


def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, **options: Any) -> Any:
    """A session as on a GPU of ``room`` bytes where a face takes 1000 beside 500 for the network."""
    config = tiny(tmp_path, **options)
    net = AMINet(config.network())
    taken: list[int] = []
    net.register_forward_pre_hook(lambda module, inputs: taken.append(500 + 1000 * len(inputs[0])))
    for name, answer in {
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device: None,
        "max_memory_allocated": lambda device: taken[-1],
        "mem_get_info": lambda device: (room - 700, 10 * room),
        "memory_reserved": lambda device: 700,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(memory, "_is_gpu", lambda session: True)
    optimizer = SimpleNamespace(state={0: "Adam's averages are there"})
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(net=net, config=config, optimizer=optimizer, accelerator=accelerator)


FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")


def test_the_advice_is_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = gpu(tmp_path, monkeypatch, 7000, batch_size=8)
    said = str(memory.gpu_full(FULL, session.config, session))
    assert "batch_size 8; about 6 should fit" in said
    assert "--batch_size 4 --accumulate 2 keeps the step as it is" in said
    assert said.endswith("(CUDA out of memory)")
    said = str(memory.gpu_full(FULL, dataclasses.replace(session.config, cuda_graph=True), session))
    assert "about 6 should fit" in said
    assert "accumulate" not in said


def test_one_face_may_be_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = gpu(tmp_path, monkeypatch, 1000, batch_size=8)
    assert "one face is too many" in str(memory.gpu_full(FULL, session.config, session))


def test_averages_that_are_still_to_come_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = gpu(tmp_path, monkeypatch, 7000)
    before = memory.step_memory(session)(2)
    session.optimizer.state = {}
    weights = sum(p.numel() for p in session.net.parameters())
    assert (before, memory.step_memory(session)(2)) == (2500, 2500 + 2 * 4 * weights)


def test_a_compiled_network_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = gpu(tmp_path, monkeypatch, 7000, compile=True)
    assert "halve it and double --accumulate" in str(memory.gpu_full(FULL, session.config, session))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, r"the GPU's memory is full with batch_size 2; halve it and double --accumulate"),
        (MemoryError(), r"the machine's memory is full: lower --batch_size .now 2.*--workers .now 0. .MemoryError"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the machine's memory is full"),
    ],
)
def test_full_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str) -> None:
    def fails(*args: Any) -> Any:
        raise error

    train(tiny(tmp_path, steps=1))
    monkeypatch.setattr(Trainer, "_step", fails)
    with pytest.raises(MemoryFullError, match=said):
        train(tiny(tmp_path))
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000001.pt"]
