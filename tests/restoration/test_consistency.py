"""Averages of restored levels that are put right."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from aminet_fast.data.warp import resize_levels
from aminet_fast.restoration.consistency import enlarge_levels, match_averages, match_bicubic
from tests.restoration.inputs import noise

PIXELS = np.asarray(noise(40, 30))


def test_levels_are_enlarged_by_bicubic() -> None:
    assert np.array_equal(enlarge_levels(PIXELS, 3), resize_levels(PIXELS, (120, 90)))


@pytest.mark.parametrize("times", [1, 2, 5, 8])
def test_averages_become_those_of_the_photograph(times: int) -> None:
    lr = PIXELS[:9, :14].astype(np.float32)
    levels = np.random.default_rng(1).normal(100, 60, (9 * times, 14 * times, 3)).astype(np.float32)
    found = match_averages(levels, lr)
    assert found.dtype == np.float32
    assert np.abs(found.reshape(9, times, 14, times, 3).mean((1, 3), dtype=np.float64) - lr).max() < 1e-4
    assert np.abs(match_averages(found, lr) - found).max() < 1e-3  # nothing is left to be done
    if times > 1:  # what was right stays: the detail within a block
        flat = np.full((9 * times, 14 * times, 1), 50, np.float32)
        detail = np.tile(np.array([-30, 30], np.float32), 14 * times)[: 14 * times, None]
        if times % 2 == 0:
            assert np.abs(match_averages(flat + detail, np.full((9, 14, 1), 50)) - flat - detail).max() < 1e-3


def test_bicubic_averages_come_close() -> None:
    lr = np.asarray(noise(12, 12).resize((24, 24), Image.Resampling.BICUBIC), np.float32)
    levels = enlarge_levels(lr, 8) + np.random.default_rng(1).normal(10, 20, (192, 192, 3)).astype(np.float32)
    before = np.abs(resize_levels(levels, (24, 24)) - lr).mean()
    after = np.abs(resize_levels(match_bicubic(levels, lr), (24, 24)) - lr).mean()
    assert before > 9
    assert after < 0.1 * before
