"""Confidence intervals of means over pictures, by the percentile bootstrap."""

from __future__ import annotations

import numpy as np

RESAMPLES = 10_000
SEED = 0
_DRAWS = 2_000_000  # pictures drawn at a time: bounds the memory


def bootstrap_means(values: np.ndarray, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """Means of each column over the same resampled pictures.

    All columns share the draws, so the difference of two columns of the result is the paired bootstrap of their
    difference.

    Args:
        values: float64 [N, K], one row a picture; positive infinities are left out of the means, as
            :func:`aminet_fast.metrics.mean_psnr` leaves them out.
        resamples: how many sets of N pictures are drawn, with replacement.
        seed: of the draws; the result depends on nothing else.

    Returns:
        float64 [resamples, K]; NaN where a column has a NaN or a draw had infinities only.
    """
    n = values.shape[0]
    rng = np.random.default_rng(seed)
    finite = ~np.isposinf(values)
    # As one matrix: sums of the finite values and their numbers, a product with the counts of each draw.
    columns = np.concatenate((np.where(finite, values, 0.0), finite), axis=1)  # [N, 2K]
    means = []
    for start in range(0, resamples, max(1, _DRAWS // n)):
        rows = min(max(1, _DRAWS // n), resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        counts = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)
        sums, numbers = np.split(counts.astype(np.float64) @ columns, 2, axis=1)
        with np.errstate(invalid="ignore"):
            means.append(np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan))
    return np.concatenate(means)


def percentile_interval(means: np.ndarray, confidence: float) -> tuple[float, float] | None:
    """Ends of the central interval that holds `confidence` of the resampled means [R]; None when one is NaN."""
    if not np.isfinite(means).all():
        return None
    tail = 50.0 * (1.0 - confidence)
    low, high = np.percentile(means, [tail, 100.0 - tail])
    return float(low), float(high)
