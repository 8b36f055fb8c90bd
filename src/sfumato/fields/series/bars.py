"""The cheap bars, which need no network: whoever forecasts must beat them, in the same run.

seasonal naive      the value a season before; normal intervals from its own past errors, as the leaderboard's
ridge               the cross-fitted ridge and the pooled quantiles of what it leaves, by lead
ridge, own scale    the same, by how wrong it was in this series lately: the bar that counts
ridge, copula       paths: a Gaussian copula of its residuals over the leads, with these quantiles
ridge, whole        paths: whole residual paths of other windows, drawn again
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from sfumato.fields.series.base import Base, Table
from sfumato.fields.series.scoring import LEVELS, QUANTILES

NAIVE, RIDGE, OWN = "seasonal naive", "ridge", "ridge, own scale"
COPULA, WHOLE = "ridge, own scale, copula", "ridge, own scale, whole paths"


def normal_quantile(q: np.ndarray) -> np.ndarray:
    """Of the standard normal law."""
    return np.asarray(torch.special.ndtri(torch.as_tensor(q, dtype=torch.float64)).numpy())


def naive(past: np.ndarray, leads: int, season: int) -> tuple[np.ndarray, np.ndarray]:
    """Seasonal naive forecast and its deviation (H,), from a past (n,) without gaps: sigma sqrt(k + 1), where lead h is k whole
    seasons ahead, and sigma the rms of its errors in the past (Hyndman and Athanasopoulos, Forecasting, 5.5)."""
    season = min(season, len(past))
    mean = past[-season:][np.arange(leads) % season]
    errors = past[season:] - past[:-season]
    errors = errors[np.isfinite(errors)]
    sigma = float(np.sqrt((errors**2).mean())) if len(errors) else 0.0
    return mean, sigma * np.sqrt(np.arange(leads) // season + 1)


def of_normal(mean: np.ndarray, sigma: np.ndarray) -> tuple[np.ndarray, dict[float, tuple[np.ndarray, np.ndarray]]]:
    """Quantiles (9, H) and the ends of intervals of a normal forecast."""
    quantiles = mean + normal_quantile(QUANTILES)[:, None] * sigma
    ends = {}
    for level in LEVELS:
        far = float(normal_quantile(np.array([(1 + level) / 2]))[0])
        ends[level] = (mean - far * sigma, mean + far * sigma)
    return quantiles, ends


@dataclass(frozen=True, eq=False)
class Bars:
    """Those of the ridge, from what it left of windows that it was not fitted to."""

    base: Base

    @cached_property
    def plain(self) -> np.ndarray:
        """Residuals (n, H) in units of the window, each lead sorted."""
        return np.sort(self.base.kept, 0)

    @cached_property
    def scaled(self) -> np.ndarray:
        """Residuals (n, H) divided by how wrong the ridge was lately, each lead sorted."""
        return np.sort(self.whole, 0)

    @cached_property
    def whole(self) -> np.ndarray:
        """The same, as paths."""
        return np.asarray(self.base.kept / self.base.lately[:, None])

    @cached_property
    def tied(self) -> np.ndarray:
        """Cholesky factor (H, H) of the correlation of normal scores over the leads."""
        ranks = self.whole.argsort(0).argsort(0)
        scores = normal_quantile((ranks + 0.5) / len(ranks))
        tie = scores.T @ scores / len(scores)
        size = np.sqrt(np.diag(tie))
        return np.asarray(np.linalg.cholesky(tie / size / size[:, None] + 1e-6 * np.eye(len(tie))))

    def quantiles(self, table: Table, own: bool) -> tuple[np.ndarray, dict[float, tuple[np.ndarray, np.ndarray]]]:
        """Quantiles (9, H) and the ends of intervals of a window (a table of one row)."""
        ranked, factor = (self.scaled, float(table.own[0])) if own else (self.plain, 1.0)

        def at(q: float) -> np.ndarray:
            return self._placed(table, factor * of_sorted(ranked, np.full((1, ranked.shape[1]), q)))[0]

        return np.stack([at(float(q)) for q in QUANTILES]), {
            level: (at((1 - level) / 2), at((1 + level) / 2)) for level in LEVELS
        }

    def paths(self, table: Table, count: int, chance: np.random.Generator) -> Mapping[str, np.ndarray]:
        """Paths (M, H) of a window, in its own scale."""
        own = float(table.own[0])
        z = chance.standard_normal((count, self.base.outlook.horizon)) @ self.tied.T
        u = torch.special.ndtr(torch.from_numpy(z)).numpy()
        drawn = self.whole[chance.integers(len(self.whole), size=count)]
        return {COPULA: self._placed(table, own * of_sorted(self.scaled, u)), WHOLE: self._placed(table, own * drawn)}

    def _placed(self, table: Table, residual: np.ndarray) -> np.ndarray:
        """Residuals (M, H) in units of the window as values."""
        return np.asarray(table.shift[0] + table.size[0] * (table.mean[0] + residual))


def of_sorted(ranked: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Quantiles u (M, H) of sorted columns (n, H), linear between."""
    place = np.clip(u, 0, 1) * (len(ranked) - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, len(ranked) - 1)
    columns = np.arange(ranked.shape[1])
    share = place - low
    return np.asarray((1 - share) * ranked[low, columns] + share * ranked[high, columns])
