"""What a run leaves of Accelerate and of torch's switches in its process; `test_distributed` has the restarts."""

from __future__ import annotations

import pytest
import torch

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
