"""Ridge regression of all leads on the past, and what it leaves: the cheap bar, and the mean of mean + residual.

    y = offset + features weights,    of series (or blocks of the time) that it was not fitted to, in five folds

The penalty is that of the least error on the other folds. All of it comes from the products of features and targets, so that a
table of hundreds of thousands of windows is gone through once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

FOLDS = 5
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Tried ones, as shares of the mean square of a feature, times the windows."""


@dataclass(frozen=True, eq=False)
class Ridge:
    """weights (1 + folds, d + 1, H): of all folds, and of all but one; the last row is the offset."""

    weights: np.ndarray
    penalty: float

    def __call__(self, features: np.ndarray, fold: int | np.ndarray = -1) -> np.ndarray:
        """features (N, d) -> (N, H): by what all folds taught (-1), or all but this one."""
        if not isinstance(fold, np.ndarray):
            own = self.weights[fold + 1]
            return np.asarray(features @ own[:-1] + own[-1])
        made = np.empty((len(features), self.weights.shape[2]))
        for each in np.unique(fold):
            made[fold == each] = self(features[fold == each], int(each))
        return made


@dataclass(eq=False)
class Sums:
    """Products of features (with a one) and targets, fold by fold: (folds, d + 1, d + 1), (folds, d + 1, H), (folds,)."""

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[tuple[int, np.ndarray, np.ndarray]], d: int, leads: int) -> Sums:
        """Of windows by fold: (fold, features (n, d), targets (n, H)), as many parts as there are."""
        sums = cls(np.zeros((FOLDS, d + 1, d + 1)), np.zeros((FOLDS, d + 1, leads)), np.zeros(FOLDS), np.zeros(FOLDS))
        for fold, features, targets in parts:
            with_one = np.concatenate((features, np.ones((len(features), 1))), 1)
            sums.gram[fold] += with_one.T @ with_one
            sums.cross[fold] += with_one.T @ targets
            sums.square[fold] += float((targets**2).sum())
            sums.count[fold] += len(targets)
        return sums


def fit(sums: Sums) -> Ridge:
    """The regression with the penalty that foretells the other folds best."""
    gram, cross = sums.gram.sum(0), sums.cross.sum(0)
    used = [fold for fold in range(FOLDS) if sums.count[fold] > 0]
    size = float(np.trace(gram)) / len(gram)
    best: tuple[float, float] = (np.inf, PENALTIES[2])
    for share in PENALTIES:
        error = 0.0
        for fold in used if len(used) > 1 else ():
            w = _solved(gram - sums.gram[fold], cross - sums.cross[fold], share * size)
            error += (
                sums.square[fold] - 2 * float((w * sums.cross[fold]).sum()) + float((w * (sums.gram[fold] @ w)).sum())
            )
        best = min(best, (error, share))
    penalty = best[1] * size
    whole = _solved(gram, cross, penalty)
    apart = [_solved(gram - sums.gram[fold], cross - sums.cross[fold], penalty) if fold in used and len(used) > 1 else whole
             for fold in range(FOLDS)]  # fmt: skip
    return Ridge(np.stack([whole, *apart]), penalty)


def _solved(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    """The offset is not held back."""
    held = penalty * np.eye(len(gram))
    held[-1, -1] = 1e-9 * (penalty + 1e-12)
    return np.asarray(np.linalg.solve(gram + held + 1e-12 * np.eye(len(gram)), cross))


def covariance(residuals: np.ndarray) -> np.ndarray:
    """Of residuals (n, H) about 0, drawn towards its diagonal's mean (Ledoit and Wolf 2004); beyond 8 spreads they count as 8."""
    spread = np.sqrt(np.mean(np.clip(residuals, *np.quantile(residuals, (0.005, 0.995), axis=0)) ** 2, 0)) + 1e-9
    held = np.clip(residuals, -8 * spread, 8 * spread)
    n, leads = held.shape
    raw = held.T @ held / n
    level = float(np.trace(raw)) / leads
    target = level * np.eye(leads)
    apart = float(((raw - target) ** 2).sum())
    noise = float(((held**2).sum(1) ** 2).mean() - (raw**2).sum()) / n if n > 1 else apart
    share = min(1.0, max(noise, 0.0) / apart) if apart > 0 else 1.0
    share = max(share, 1e-4)
    return np.asarray((1 - share) * raw + share * target + 1e-9 * np.eye(leads))
