"""Ridge regression of fields on the frames before them: the linear bar, and the mean of mean + residual.

    y = offset + weights' features,     penalty by generalised cross-validation (Golub, Heath and Wahba 1979)

Residuals of the days that a regression was fitted to are too small to be noise of other days. So those that are learned from, or
drawn again, are of regressions that have not seen them: eight blocks of the time, each foretold by what the other seven taught.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FOLDS = 8
PENALTIES = np.logspace(-3, 6, 37)
"""Tried ones, in units of the mean square of the singular values of the features."""
MOST = 1 << 28
"""Numbers of a table (features x targets, days x features) at most: 1 GiB of float32."""


def fits(days: int, features: int, targets: int) -> bool:
    """Whether a regression of this size is worth its memory."""
    return max(days, targets, min(days, features)) * features <= MOST


@dataclass(frozen=True, eq=False)
class Ridge:
    """weights (features, targets), offset (targets,), and the penalty that was chosen."""

    weights: np.ndarray
    offset: np.ndarray
    penalty: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, features) -> (n, targets) float32."""
        return (np.asarray(features, dtype=np.float32) @ self.weights + self.offset).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Design:
    """Features (n, d) taken apart, left (n, r) x sizes (r,) x right (r, d) about their ``centre``, for any number of targets."""

    centre: np.ndarray
    left: np.ndarray
    sizes: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Design:
        """By the smaller of the two products of the features with themselves."""
        centre = features.mean(0, dtype=np.float64)
        off = np.asarray(features, dtype=np.float64) - centre
        tall = len(off) > off.shape[1]
        power, sides = np.linalg.eigh(off.T @ off if tall else off @ off.T)
        kept = power > 1e-10 * max(float(power[-1]), 1e-300)
        sizes, sides = np.sqrt(power[kept]), sides[:, kept]
        return (
            cls(centre, off @ sides / sizes, sizes, sides.T)
            if tall
            else cls(centre, sides, sizes, (sides / sizes).T @ off)
        )

    def fit(self, targets: np.ndarray, penalty: float | None = None) -> Ridge:
        """The regression of targets (n, k); without a penalty the one of least generalised cross-validation."""
        y = targets.mean(0, dtype=np.float64)
        off, power = np.asarray(targets, dtype=np.float64) - y, self.sizes**2
        seen = self.left.T @ off  # (r, k): the targets in the directions of the features
        if penalty is None:
            penalty = self._best(float(np.square(off).sum()), np.square(seen).sum(1))
        weights = self.right.T @ ((self.sizes / (power + penalty))[:, None] * seen)
        return Ridge(weights.astype(np.float32), (y - self.centre @ weights).astype(np.float32), penalty)

    def _best(self, whole: float, strength: np.ndarray) -> float:
        """The penalty of least cross-validation, for targets of so much in all, ``strength`` (r,) of it in the directions."""
        power, count = self.sizes**2, len(self.left) - 1
        tried, scores = PENALTIES * (float(power.mean()) if len(power) else 1.0), []
        for each in tried:
            kept = power / (power + each)
            left_over, free = (
                max(whole - float(((1 - (1 - kept) ** 2) * strength).sum()), 0.0),
                count - float(kept.sum()),
            )
            scores.append(left_over / free**2 if free > 0.5 else np.inf)
        return float(tried[int(np.argmin(scores))])


def blocks(count: int, folds: int = FOLDS) -> np.ndarray:
    """Which of so many blocks of the time each of ``count`` days in order belongs to, (count,): of eight years, its year."""
    return np.arange(count) * min(folds, count) // max(1, count)


def crossed(features: np.ndarray, targets: Sequence[np.ndarray], penalties: Sequence[float]) -> list[np.ndarray]:
    """What each block of the time is foretold by regressions on the others, (n, k) float32 for each of the targets (n, k)."""
    block, found = blocks(len(features)), [np.empty(each.shape, dtype=np.float32) for each in targets]
    for fold in range(int(block.max()) + 1):
        own = block == fold
        design = Design.of(features[~own])
        for place, (each, penalty) in enumerate(zip(targets, penalties)):
            found[place][own] = design.fit(each[~own], penalty)(features[own])
    return found
