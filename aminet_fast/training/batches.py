"""Batches of training faces, on every process its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..data import FaceDataset, StepSampler
from .config import TrainConfig
from .faults.signals import outlive_signals

Batch = dict[str, Any]  # "input", "hr": [N, 3, S, S]; "name": list of str


def train_batches(
    faces: FaceDataset, config: TrainConfig, *, step: int, steps: int, rank: int, world: int, pin: bool
) -> Iterator[Batch]:
    """The batches from optimiser step ``step`` on to ``steps``, ``config.accumulate`` of them a step.

    The loader is not given to Accelerate: its sharding deals a sampler's batches to the processes in turn,
    and knows nothing of a stream that is entered at any step. `StepSampler` shards by rank itself, so that a
    resumed run gets exactly the rest.
    """
    sampler = StepSampler(
        len(faces),
        config.batch_size,
        seed=config.seed,
        start_step=step * config.accumulate,
        steps=(steps - step) * config.accumulate,
        rank=rank,
        world=world,
    )
    loader: DataLoader[Any] = DataLoader(
        faces,
        batch_sampler=sampler,
        num_workers=config.workers,
        pin_memory=pin,
        worker_init_fn=outlive_signals,
        # The loader draws a base seed when it starts; from PyTorch's generator a resumed run would draw one
        # more.
        generator=torch.Generator().manual_seed(config.seed),
    )
    return iter(loader)


def to_device(pictures: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """pictures [N, 3, H, W], copied without waiting when they lie in pinned memory."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return pictures.to(device, non_blocking=True, memory_format=layout)
