"""Batches of (index, item_seed) from one endless stream that can be entered at any step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """SplitMix64's finaliser: 64 bits in, 64 well mixed bits out."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def item_seed(seed: int, position: int) -> int:
    """The augmentation seed of the sample at `position` of the stream, in [0, 2**63)."""
    return _mix(_mix(seed & _MASK) ^ (position & _MASK)) >> 1


class StepSampler(Sampler[list[tuple[int, int]]]):
    """A batch sampler over endless epochs, each one a permutation of range(length) from (seed, epoch).

    Rank `rank` of `world` gets at step s the stream's positions (s * world + rank) * batch_size + j, so ranks
    never overlap and a start at any step gives exactly the rest of the stream; only the step has to be saved.
    A batch that crosses the end of an epoch goes on in the next: batches are full, every sample comes once an
    epoch.

    Args:
        length: number of samples, >= 1.
        batch_size: samples a batch on this rank, >= 1.
        seed: of the permutations and of the item seeds.
        start_step: first step to give.
        steps: how many batches to give; None: without end.
        rank, world: this process and how many there are.

    Yields lists of (index, item_seed). Raises ValueError for arguments out of range.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        *,
        seed: int = 0,
        start_step: int = 0,
        steps: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        for name, value, least in (
            ("length", length, 1),
            ("batch_size", batch_size, 1),
            ("start_step", start_step, 0),
            ("steps", 0 if steps is None else steps, 0),
            ("world", world, 1),
            ("rank", rank, 0),
        ):
            if value < least:
                raise ValueError(f"StepSampler: {name} is {value}, wanted at least {least}")
        if rank >= world:
            raise ValueError(f"StepSampler: rank is {rank}, wanted less than world = {world}")
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.start_step, self.steps, self.rank, self.world = (start_step, steps, rank, world)

    def __len__(self) -> int:
        if self.steps is None:
            raise TypeError("this StepSampler has no end; give steps=... for one that has a length")
        return self.steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.empty(0, np.int64)
        step = self.start_step
        while self.steps is None or step < self.start_step + self.steps:
            first = (step * self.world + self.rank) * self.batch_size
            batch = []
            for position in range(first, first + self.batch_size):
                if position // self.length != epoch:
                    epoch = position // self.length
                    order = self.permutation(epoch)
                batch.append((int(order[position % self.length]), item_seed(self.seed, position)))
            yield batch
            step += 1

    def permutation(self, epoch: int) -> np.ndarray:
        """The order of range(length) in `epoch`, int64 [length]."""
        key = (_mix(self.seed & _MASK) ^ _mix(~epoch & _MASK)) & _MASK
        return np.random.Generator(np.random.PCG64(key)).permutation(self.length)
