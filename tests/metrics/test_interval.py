from __future__ import annotations

import math

import numpy as np
import pytest

from aminet_fast.metrics.interval import bootstrap_means, percentile_interval


def test_means_are_those_of_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The draws one by one, and in pieces as for a set that is too large for one."""
    values = np.random.default_rng(1).normal(size=(7, 3))
    rng = np.random.default_rng(4)
    expected = np.stack([values[rng.integers(7, size=7)].mean(axis=0) for _ in range(50)])
    np.testing.assert_allclose(bootstrap_means(values, 50, seed=4), expected, rtol=0, atol=1e-14)
    monkeypatch.setattr("aminet_fast.metrics.interval._DRAWS", 16)
    np.testing.assert_allclose(bootstrap_means(values, 50, seed=4), expected, rtol=0, atol=1e-14)
    assert not np.array_equal(bootstrap_means(values, 50, seed=5), bootstrap_means(values, 50, seed=4))


def test_interval_of_a_mean_is_the_normal_one() -> None:
    values = np.random.default_rng(2).normal(10, 2, size=(400, 1))
    ends = percentile_interval(bootstrap_means(values)[:, 0], 0.95)
    assert ends is not None
    half = 1.96 * values.std() / math.sqrt(400)
    assert ends == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)
    narrow = percentile_interval(bootstrap_means(values)[:, 0], 0.5)
    assert narrow is not None
    assert narrow[1] - narrow[0] == pytest.approx(2 * half * 0.6745 / 1.96, abs=0.02)


def test_columns_share_their_draws() -> None:
    values = np.random.default_rng(3).normal(size=(50, 1))
    means = bootstrap_means(np.concatenate((values, values + 0.25), axis=1), 300)
    np.testing.assert_allclose(means[:, 1] - means[:, 0], 0.25, rtol=0, atol=1e-12)
    assert means[:, 0].std() > 0.05


def test_infinities_are_left_out_and_nan_is_not() -> None:
    values = np.array([[20.0, 1.0, math.inf, math.nan], [30.0, math.inf, math.inf, 2.0], [math.inf, 3.0, 1.0, 2.0]])
    means = bootstrap_means(values, 500)
    rng = np.random.default_rng(0)
    for row in means:
        drawn = values[rng.integers(3, size=3)]
        for j in range(2):
            kept = drawn[np.isfinite(drawn[:, j]), j]
            assert row[j] == pytest.approx(kept.mean()) if len(kept) else math.isnan(row[j])
    assert np.isnan(means[:, 2]).any()  # some draws have infinities only
    assert np.isnan(means[:, 3]).all()
    assert percentile_interval(means[:, 2], 0.95) is None
    assert percentile_interval(means[:, 3], 0.95) is None
