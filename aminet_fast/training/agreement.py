"""One small message a step by which all processes decide alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor


class Agreement(NamedTuple):
    """The step's mean loss over all processes, its loss scale, and whether any of them asked for something."""

    loss: float
    scale: float
    stop: bool
    time_up: bool
    save: bool


def exchange(
    accelerator: Accelerator, losses: list[Tensor], scale: Tensor, wishes: tuple[bool, bool, bool]
) -> Callable[[], Agreement]:
    """Start to combine losses and wishes; the result waits for them.

    A signal, or the clock, reaches processes at different steps; one that stopped alone would leave the
    others waiting for its gradients for ever. A loss that is not finite on one process is not finite on all.
    """
    asked = torch.tensor(wishes).double().to(losses[0].device)
    numbers = torch.stack([torch.stack(losses).mean().double(), scale.double(), *asked])
    if accelerator.num_processes > 1:
        numbers = accelerator.reduce(numbers, reduction="sum")
    ready = None
    if numbers.is_cuda:
        numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()

    def wait() -> Agreement:
        if ready is not None:
            ready.synchronize()
        loss, scale, stop, time_up, save = numbers.tolist()
        world = accelerator.num_processes
        return Agreement(loss / world, scale / world, stop > 0, time_up > 0, save > 0)

    return wait
