"""One small message a step by which all processes decide alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor


class Agreement(NamedTuple):
    """The step's mean losses over all processes, its loss scale, and whether any of them asked for something."""

    loss: float
    parts: tuple[float, ...]  # the objective's
    scale: float
    stop: bool
    time_up: bool
    save: bool


def exchange(
    accelerator: Accelerator, losses: list[tuple[Tensor, ...]], scale: Tensor, wishes: tuple[bool, bool, bool]
) -> Callable[[], Agreement]:
    """Start to combine losses and wishes; the result waits for them.

    A signal, or the clock, reaches processes at different steps; one that stopped alone would leave the
    others waiting for its gradients for ever. A loss that is not finite on one process is not finite on all.

    Args:
        losses: Of each batch, scalars: the network's loss, and the objective's parts.
    """
    asked = torch.tensor(wishes).double().to(scale.device)
    means = [torch.stack(batches).mean().double() for batches in zip(*losses, strict=True)]
    numbers = torch.stack([*means, scale.double(), *asked])
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
        *sums, stop, time_up, save = numbers.tolist()
        loss, *parts, scale = (value / accelerator.num_processes for value in sums)
        return Agreement(loss, tuple(parts), scale, stop > 0, time_up > 0, save > 0)

    return wait
