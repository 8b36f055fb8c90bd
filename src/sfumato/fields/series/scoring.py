"""Scores of forecasts of series: what the field's leaderboards print, and what joint paths are for.

    WQL   mean over q = .1 ... .9 of 2 sum |(y - f_q)(1[y <= f_q] - q)| / sum |y|      (GIFT-Eval's weighted quantile loss)
    MASE  mean |y - median| / scale,  scale = mean |y_k - y_(k - season)| of the past
    SP    mean over q of 2 |(y - f_q)(1[y <= f_q] - q)|, / scale: every window counts alike
    ES    fair energy score of a path / (scale sqrt(H));  sum: fair CRPS of the sum over the horizon / (scale H)

Each is kept window by window, so that ratios have intervals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from sfumato.metrics.forecast import crps, energy_score

QUANTILES = np.arange(1, 10) / 10
LEVELS = (0.5, 0.8, 0.95)
DRAWS = 1000
COVERS = tuple(f"cover{round(100 * level)}" for level in LEVELS)


@dataclass(frozen=True, eq=False)
class Window:
    """What came (H,), NaN where nothing did, and the scale of the series before it."""

    truth: np.ndarray
    scale: float


def scale_of(past: np.ndarray, season: int) -> float:
    """mean |y_k - y_(k - season)| of what is known of a past; of shorter or constant ones the season 1, or the size of the
    values."""
    for step in (season, 1):
        if len(past) > step:
            moved = np.abs(past[step:] - past[:-step])
            if np.isfinite(moved).any() and (size := float(np.nanmean(moved))) > 0:
                return size
    size = float(np.nanmean(np.abs(past))) if np.isfinite(past).any() else 0.0
    return size if size > 0 else 1.0


def of_quantiles(
    quantiles: np.ndarray, ends: Mapping[float, tuple[np.ndarray, np.ndarray]], window: Window
) -> dict[str, float]:
    """Scores of quantiles (9, H) at .1 ... .9, and of the ends of intervals, level -> (low (H,), high (H,))."""
    there = np.isfinite(window.truth)
    y, f = window.truth[there], quantiles[:, there]
    loss = 2 * np.abs((y - f) * ((y <= f) - QUANTILES[:, None]))
    found = {
        "loss": float(loss.mean(0).sum()), "size": float(np.abs(y).sum()), "count": float(there.sum()),
        "mase": float(np.abs(y - f[4]).mean()) / window.scale, "sp": float(loss.mean()) / window.scale,
    }  # fmt: skip
    for level, name in zip(LEVELS, COVERS):
        if level in ends:
            low, high = (end[there] for end in ends[level])
            found[name] = float(((low <= y) & (y <= high)).mean())
    return found


def of_paths(paths: np.ndarray, window: Window) -> dict[str, float]:
    """Scores of paths (M, H), of which those of whole paths need a truth without gaps."""
    ends = {level: tuple(np.quantile(paths, ((1 - level) / 2, (1 + level) / 2), axis=0)) for level in LEVELS}
    found = of_quantiles(np.quantile(paths, QUANTILES, axis=0), ends, window)
    if not np.isfinite(window.truth).all():
        return found
    leads = len(window.truth)
    x, y = torch.from_numpy(paths / window.scale), torch.from_numpy(window.truth / window.scale)
    found["es"] = float(energy_score(x[:, None], y[None])) / np.sqrt(leads)
    for name, made, came in (("sum", x.sum(1), y.sum()), ("max", x.amax(1), y.amax())):
        found[name] = float(crps(made, came)) / (leads if name == "sum" else 1)
    low, high = np.quantile(paths.sum(1), (0.1, 0.9))
    found["cover_sum"] = float(low <= window.truth.sum() <= high)
    return found


def apart(paths: np.ndarray, chance: np.random.Generator) -> np.ndarray:
    """The same marginals, independent: each lead's numbers in another order."""
    return np.stack([chance.permutation(column) for column in paths.T], 1)


# ---- together --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scores:
    """by: forecaster -> score -> (N,), NaN where a window has none. groups (N,): what is drawn again together for intervals."""

    by: Mapping[str, Mapping[str, np.ndarray]]
    groups: np.ndarray

    @classmethod
    def of(cls, every: Sequence[Mapping[str, Mapping[str, float]]], groups: Sequence[int]) -> Scores:
        """Of windows, each forecaster -> score -> value."""
        names = {name: sorted({score for each in every for score in each[name]}) for name in every[0]}
        by = {name: {score: np.array([each[name].get(score, np.nan) for each in every]) for score in scores}
              for name, scores in names.items()}  # fmt: skip
        return cls(by, np.asarray(groups))

    def value(self, name: str, score: str, rows: np.ndarray | None = None) -> float:
        """A forecaster's score over windows (all): WQL of sums, coverage of numbers, others the mean of windows. NaN without."""
        own = self.by[name]
        where = slice(None) if rows is None else rows
        if score == "wql":
            return float(own["loss"][where].sum() / max(own["size"][where].sum(), 1e-300))
        if score not in own:
            return float("nan")
        values = own[score][where]
        if score in COVERS:
            weight = own["count"][where]
            return float((values * weight).sum() / weight.sum())
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else float("nan")

    @cached_property
    def again(self) -> list[np.ndarray]:
        """Windows drawn again with replacement, group by group, a thousand times."""
        chance = np.random.default_rng(0)
        names, which = np.unique(self.groups, return_inverse=True)
        order = np.argsort(which, kind="stable")
        if len(names) == len(order):
            return [order[chance.integers(len(names), size=len(names))] for _ in range(DRAWS)]
        members = np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
        return [
            np.concatenate([members[k] for k in chance.integers(len(names), size=len(names))]) for _ in range(DRAWS)
        ]

    def interval(self, name: str, score: str, over: str | None = None, level: float = 0.95) -> tuple[float, float]:
        """Of a score, or of its ratio to another forecaster's."""
        values = [
            self.value(name, score, rows) / (1.0 if over is None else self.value(over, score, rows))
            for rows in self.again
        ]
        low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
        return float(low), float(high)

    def ratio(self, name: str, over: str, score: str) -> float:
        """Of two forecasters' scores."""
        return self.value(name, score) / self.value(over, score)

    def won(self, name: str, over: str, score: str = "sp") -> float:
        """The share of groups (series) in which a forecaster scores below another."""
        names = np.unique(self.groups)
        return float(
            np.mean(
                [self.value(name, score, self.groups == k) < self.value(over, score, self.groups == k) for k in names]
            )
        )
