"""StepSampler: exact resumption, disjoint ranks, every sample once an epoch."""

from __future__ import annotations

from itertools import chain, islice

import pytest

from aminet_fast.data import StepSampler


def take(length: int, batch: int, steps: int, **options: int) -> list[list[tuple[int, int]]]:
    return list(StepSampler(length, batch, steps=steps, **options))


@pytest.mark.parametrize("length", [1, 7, 32, 100])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_resume_gives_exactly_the_rest(length, world):
    for rank in range(world):
        whole = take(length, 4, 40, seed=3, rank=rank, world=world)
        for start in (0, 1, 5, 13, 39):
            assert take(length, 4, 40 - start, seed=3, start_step=start, rank=rank, world=world) == whole[start:]


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_share_out_the_same_stream(world):
    one = list(chain.from_iterable(take(50, 3, 12 * world, seed=1)))
    parts = [take(50, 3, 12, seed=1, rank=rank, world=world) for rank in range(world)]
    together = [item for step in range(12) for part in parts for item in part[step]]
    assert together == one
    seeds = [seed for _, seed in together]
    assert len(set(seeds)) == len(seeds)


def test_every_sample_once_an_epoch_and_epochs_differ():
    stream = [index for batch in take(30, 7, 30, seed=0) for index, _ in batch]
    epochs = [stream[i : i + 30] for i in range(0, 210, 30)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 7
    assert all(len(batch) == 7 for batch in take(30, 7, 30))


def test_seeds_differ_by_seed_and_stay_put():
    assert take(30, 4, 3, seed=0) != take(30, 4, 3, seed=1)
    # pinned: a change here breaks the resumption of every run that was ever saved
    assert take(10, 3, 2, seed=0) == PINNED


def test_endless_without_steps():
    sampler = StepSampler(5, 2)
    assert len(list(islice(sampler, 100))) == 100
    with pytest.raises(TypeError, match="no end"):
        len(sampler)
    assert len(StepSampler(5, 2, steps=9)) == 9


@pytest.mark.parametrize(
    "options",
    [
        {"length": 0},
        {"batch_size": 0},
        {"rank": 2, "world": 2},
        {"rank": -1},
        {"start_step": -1},
        {"steps": -1},
    ],
)
def test_arguments_out_of_range(options):
    arguments = {"length": 4, "batch_size": 2, **options}
    with pytest.raises(ValueError, match="StepSampler: "):
        StepSampler(arguments.pop("length"), arguments.pop("batch_size"), **arguments)


PINNED = [
    [(7, 6017775124710473527), (2, 313702574736366215), (0, 7774984521324166428)],
    [(6, 7208058654680435264), (8, 1085863262479677830), (1, 2258966835411846142)],
]
