"""Intervals: of a mean, and of a share. Needs no torch by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

LEVEL = 0.95


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """Mean of independent values (N,) and a 90% interval for it, by the t distribution. MetricError for fewer than 2."""
    from sfumato.metrics.distances import MetricError

    n = len(values)
    if n < 2:
        raise MetricError(f"an interval needs at least 2 values, not {n}")
    mean, error = float(values.double().mean()), float(values.double().std()) / math.sqrt(n)
    t = 1.6449 + 1.524 / (n - 1) + 1.42 / (n - 1) ** 2 + 1.75 / (n - 1) ** 3  # Cornish-Fisher; within 2% from n = 3 on
    return mean, mean - t * error, mean + t * error


def bootstrap(values: Iterable[float], level: float = LEVEL, draws: int = 10_000) -> tuple[float, float]:
    """Interval of the mean by drawing the values anew with replacement (Efron 1979), the same for the same values."""
    known = np.asarray(list(values), dtype=np.float64)
    chance = np.random.default_rng(0)
    means = np.concatenate([known[chance.integers(len(known), size=(500, len(known)))].mean(axis=1)
                            for _ in range(max(1, draws // 500))])  # fmt: skip
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_interval(share: float, n: int) -> tuple[float, float]:
    """90% interval of a plain share of n samples (Wilson 1927): unlike resampling, not a point where the share is 0."""
    z = 1.6449
    centre, spread = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (centre - spread) / (1 + z * z / n), (centre + spread) / (1 + z * z / n)


def share_bounds(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Equal-tailed interval of the posterior Beta(1 + successes, 1 + failures) of a share whose prior is uniform.

    Raises ValueError unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials; expected 0 to {trials}")
    # With whole numbers the incomplete beta function is the tail of a binomial law of trials + 1
    count = trials + 1
    hits = np.arange(successes + 1, count + 1)
    ways = np.array([math.lgamma(count + 1) - math.lgamma(j + 1) - math.lgamma(count - j + 1) for j in hits])

    def quantile(q: float) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            mass = np.exp(ways + hits * math.log(middle) + (count - hits) * math.log1p(-middle)).sum()
            low, high = (middle, high) if mass < q else (low, middle)
        return (low + high) / 2

    return quantile((1 - level) / 2), quantile((1 + level) / 2)
