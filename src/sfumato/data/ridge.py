"""Ridge regression, and what it leaves of data that it was not fitted to: the linear bar, and the mean of mean + residual.

    y = offset + features weights

Residuals of the rows that a regression was fitted to are too small to be noise of other rows. So those that are learned from, or
drawn again, are of regressions that have not seen them: of each fold what the others taught. Two ways lead there:

* :class:`Sums`, for few features of very many rows: products of features and targets, fold by fold, in one pass over the rows;
  the penalty is that of the least error on the other folds.
* :class:`Design`, for many features of few rows: the features taken apart once, for any number of targets and penalties; the
  penalty is that of generalised cross-validation (Golub, Heath and Wahba 1979), folds are blocks of the time (:func:`crossed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 8
"""Blocks of the time."""
SHARES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""Penalties that are tried on sums, as shares of the mean square of a feature, times the rows."""
PENALTIES = np.logspace(-3, 6, 37)
"""Penalties that are tried on a design, in units of the mean square of its singular values."""
MOST = 1 << 28
"""Numbers of a table (features x targets, rows x features) at most: 1 GiB of float32."""


def fits(rows: int, features: int, targets: int) -> bool:
    """Whether a regression of this size is worth its memory."""
    return max(rows, targets, min(rows, features)) * features <= MOST


@dataclass(frozen=True, eq=False)
class Ridge:
    """weights (features, targets), offset (targets,), and the penalty that was chosen."""

    weights: np.ndarray
    offset: np.ndarray
    penalty: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, features) -> (n, targets), numbers of the weights' type."""
        return np.asarray(np.asarray(features, dtype=self.weights.dtype) @ self.weights + self.offset)


@dataclass(frozen=True, eq=False)
class Crossfitted:
    """weights (1 + folds, features + 1, targets): of all folds, and of all but one; the last row is the offset."""

    weights: np.ndarray
    penalty: float

    def without(self, fold: int) -> Ridge:
        """What all folds taught (-1), or all but this one."""
        own = self.weights[fold + 1]
        return Ridge(own[:-1], own[-1], self.penalty)

    def __call__(self, features: np.ndarray, fold: int | np.ndarray = -1) -> np.ndarray:
        """features (n, d) -> (n, targets), without a fold, or of each row without its own (n,)."""
        if not isinstance(fold, np.ndarray):
            return self.without(fold)(features)
        made = np.empty((len(features), self.weights.shape[2]))
        for each in np.unique(fold):
            made[fold == each] = self.without(int(each))(features[fold == each])
        return made


@dataclass(frozen=True, eq=False)
class Sums:
    """Products of features (with a one) and targets, fold by fold: (folds, d + 1, d + 1), (folds, d + 1, k), (folds,) twice."""

    gram: np.ndarray
    cross: np.ndarray
    square: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[tuple[int, np.ndarray, np.ndarray]], d: int, targets: int, folds: int) -> Sums:
        """Of rows by fold: (fold, features (n, d), targets (n, k)), as many parts as there are."""
        sums = cls(
            np.zeros((folds, d + 1, d + 1)), np.zeros((folds, d + 1, targets)), np.zeros(folds), np.zeros(folds)
        )  # fmt: skip
        for fold, features, wanted in parts:
            with_one = np.concatenate((features, np.ones((len(features), 1))), 1)
            sums.gram[fold] += with_one.T @ with_one
            sums.cross[fold] += with_one.T @ wanted
            sums.square[fold] += float((wanted**2).sum())
            sums.count[fold] += len(wanted)
        return sums

    def fit(self) -> Crossfitted:
        """The regression with the penalty that foretells the other folds best."""
        gram, cross = self.gram.sum(0), self.cross.sum(0)
        used = np.flatnonzero(self.count > 0)
        apart = used if len(used) > 1 else used[:0]
        size = float(np.trace(gram)) / len(gram)
        best: tuple[float, float] = (np.inf, SHARES[2])
        for share in SHARES:
            best = min(best, (sum(self._error(fold, share * size) for fold in apart.tolist()), share))
        penalty = best[1] * size
        whole = _solved(gram, cross, penalty)
        own = [self._but(fold, penalty) if fold in apart else whole for fold in range(len(self.count))]
        return Crossfitted(np.stack([whole, *own]), penalty)

    def _but(self, fold: int, penalty: float) -> np.ndarray:
        return _solved(self.gram.sum(0) - self.gram[fold], self.cross.sum(0) - self.cross[fold], penalty)

    def _error(self, fold: int, penalty: float) -> float:
        """The squares of what the other folds' regression leaves of this one, summed."""
        w = self._but(fold, penalty)
        explained = 2 * float((w * self.cross[fold]).sum()) - float((w * (self.gram[fold] @ w)).sum())
        return float(self.square[fold]) - explained


def _solved(gram: np.ndarray, cross: np.ndarray, penalty: float) -> np.ndarray:
    """The offset is not held back."""
    held = penalty * np.eye(len(gram))
    held[-1, -1] = 1e-9 * (penalty + 1e-12)
    return np.asarray(np.linalg.solve(gram + held + 1e-12 * np.eye(len(gram)), cross))


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


def blocks(count: int, folds: int = BLOCKS) -> np.ndarray:
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
