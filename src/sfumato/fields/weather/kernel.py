"""Kernel ridge regression: a smooth law of second degree, from a few thousand days.

    y = sum_i k(x, x_i) dual_i,    k(a, b) = 1 + g + g^2 / 3

g is the product of a and b about the mean, divided so that it is 1 or so of a day with itself.

The square holds every product of two features, and what moves weather is such a product: a wind, which is a slope of pressure,
times the slope of what it carries. A ridge regression on the features alone knows no product. The dual is (K + penalty)^-1 y.
What each of eight blocks of the time is foretold by the other seven needs no second regression: with G = (K + penalty)^-1 the
errors of block B, left out, are G_BB^-1 (G y)_B. The penalty is that of the least such error: neighbouring days are alike,
and one day left out alone would be foretold by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.data.ridge import blocks

MOST_DAYS = 8192
"""A table of days x days of float64 is 512 MiB then."""
PENALTIES = tuple(np.logspace(-2, 1, 7).tolist())
"""Tried ones; the kernel of a day with itself is 2.3 or so."""
SQUARE = 1 / 3
"""The share of products of two features: measured on Europe, where .1 and 1 do as well to half a percent."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """support (n, features) about their ``centre`` and divided by ``scale``, dual (n, targets), and the chosen penalty."""

    centre: np.ndarray
    scale: float
    support: np.ndarray
    dual: np.ndarray
    penalty: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """(n, features) -> (n, targets) float32."""
        return (kernel(self._off(features), self.support) @ self.dual).astype(np.float32)

    def _off(self, features: np.ndarray) -> np.ndarray:
        return ((np.asarray(features, dtype=np.float32) - self.centre) / np.float32(self.scale)).astype(np.float32)


def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(n, features) and (m, features), about their mean and of square 1 -> (n, m)."""
    g = a @ b.T
    return np.asarray(1 + g + SQUARE * g * g)


def fit(features: np.ndarray, targets: np.ndarray, penalties: Sequence[float] = PENALTIES) -> tuple[Kernel, np.ndarray]:
    """The regression of targets (n, k), days in order, and what each block of the time is foretold by the others, (n, k)
    float32."""
    centre = features.mean(0, dtype=np.float64).astype(np.float32)
    off = np.asarray(features, dtype=np.float32) - centre
    scale = float(np.sqrt(np.square(off, dtype=np.float64).sum(1).mean())) or 1.0
    off = (off / np.float32(scale)).astype(np.float32)
    table, y = kernel(off, off).astype(np.float64), np.asarray(targets, dtype=np.float64)
    own = blocks(len(y))
    tried = [_left_out(table, y, own, penalty) for penalty in penalties]
    best = int(np.argmin([np.square(error).sum() for _, error in tried]))
    dual, error = tried[best]
    return Kernel(centre, scale, off, dual.astype(np.float32), penalties[best]), (y - error).astype(np.float32)


def _left_out(table: np.ndarray, y: np.ndarray, own: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """The dual, and the errors of each block when it is left out, (n, k) each."""
    inverse = np.linalg.inv(table + penalty * np.eye(len(table)))
    dual, error = inverse @ y, np.empty_like(y)
    for block in range(int(own.max()) + 1):
        here = own == block
        error[here] = np.linalg.solve(inverse[np.ix_(here, here)], dual[here])
    return dual, error
