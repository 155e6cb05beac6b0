"""What a run leaves of Accelerate and of torch's switches in its process; `test_distributed` has the restarts."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from aminet_fast.training.accelerator import accelerated


def fails() -> None:
    with accelerated("cpu", "bf16", 3) as accelerator:
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 3)
        assert accelerator.scaler is None
        torch.use_deterministic_algorithms(not torch.are_deterministic_algorithms_enabled())
        raise OSError("no faces")


def test_after_an_error_another_precision_may_follow() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    with pytest.raises(OSError, match="no faces"):
        fails()
    assert torch.are_deterministic_algorithms_enabled() == before
    with accelerated("cpu", "fp16", 1) as accelerator:
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("fp16", 1)
        assert isinstance(accelerator.scaler, torch.amp.GradScaler)
        assert accelerator.scaler.is_enabled()


def test_a_second_run_in_this_process_is_refused() -> None:
    """Accelerate's state is the process's: it would change the other's accumulation in the middle of a step."""
    found: list[str] = []

    def second() -> None:
        try:
            with accelerated("cpu", "fp32", 3):
                found.append("ran")
        except ValueError as error:
            found.append(str(error))

    with accelerated("cpu", "fp32", 1) as accelerator:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        assert found == [
            "another thread trains or profiles in this process; wait for its end, or use a process of its own"
        ]
        assert accelerator.gradient_accumulation_steps == 1
    second()
    assert found[1:] == ["ran"]


def test_another_device_than_the_options_say_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Accelerate would take it from torch_xla."""
    there = SimpleNamespace(device=torch.device("meta"))
    monkeypatch.setattr("aminet_fast.training.accelerator.Accelerator", lambda **options: there)
    with pytest.raises(ValueError, match="Accelerate trains on meta in this process, and the run's options say cpu"):
        fails()
    monkeypatch.undo()
    with pytest.raises(OSError, match="no faces"):
        fails()


def test_an_accelerator_of_the_callers_is_left_alone() -> None:
    """The run would compile as it says, and it could not be used after the run."""
    mine = Accelerator(cpu=True, gradient_accumulation_steps=4, dynamo_backend="eager")
    try:
        with pytest.raises(ValueError, match="this process has an Accelerator already"):
            fails()
        assert (mine.device.type, mine.gradient_accumulation_steps) == ("cpu", 4)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    with pytest.raises(OSError, match="no faces"):
        fails()
