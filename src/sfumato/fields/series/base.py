"""What is known of a window without any network: units, what two ridges expect of it, how wrong they were lately, and the law
of what they leave. A network learns the rest, and begins at this law.

    y = shift + size (mean + own A e),   e ~ N(0, 1) if the ridge's residuals were normal

A is the Cholesky factor of the residuals' covariance over leads, so that e is white. ``own`` is the rms of the errors that the
ridge made in this series lately, in units of its usual ones (1 where windows are not divided by it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sfumato.data.ridge import Crossfitted, Sums
from sfumato.fields.series.covariance import covariance
from sfumato.fields.series.units import carried, measured, windows

FAR = 20.0
"""Windows with a value as many units away are not fitted to: a few of them would rule all."""
MOST_FITTED = 40_000
PER_SERIES = 100
KEPT = 20_000
"""Residuals that are kept, for the bars."""
FOLDS = 5
LATELY = 4
"""Horizons whose errors tell how wrong the ridge was lately."""


@dataclass(frozen=True)
class Outlook:
    """What is forecast from what: leads, steps of the past, season, units of a window."""

    horizon: int
    past: int
    season: int
    scale: str
    own: bool

    @property
    def other(self) -> str:
        """The units of the second ridge."""
        return "last" if self.scale == "mean" else "mean"


@dataclass(frozen=True, eq=False)
class Track:
    """One series as the base reads it: values with gaps (n,), filled from the past, what tells the time at each origin (n + 1,
    K), known covariates at each step (n + ahead, c) in standard units, its fold, and the first step that nothing was fitted
    to."""

    values: np.ndarray
    filled: np.ndarray
    clock: np.ndarray
    known: np.ndarray
    fold: np.ndarray
    """Of each origin (n + 1,): the fold whose regression has not seen its future."""

    @classmethod
    def of(
        cls, values: np.ndarray, outlook: Outlook, clock: np.ndarray, known: np.ndarray, fold: np.ndarray | int
    ) -> Track:
        """Of values (n,) with NaN in gaps."""
        whole = np.full(len(values) + 1, fold) if isinstance(fold, int) else fold
        return cls(values, carried(values, outlook.season), clock, known, whole)


@dataclass(frozen=True, eq=False)
class Table:
    """What is known at origins (N,) of a series: shift and size of the window (N,); in these units what both ridges expect (N, H)
    and the errors of the first at the origins one and two horizons before (N, 2 H), 0 where unknown; how wrong it was lately
    (N,), in units of its usual errors; the log of what a step is to a deviation (N,); the share of the past that is there."""

    origins: np.ndarray
    shift: np.ndarray
    size: np.ndarray
    mean: np.ndarray
    second: np.ndarray
    errors: np.ndarray
    own: np.ndarray
    rough: np.ndarray
    share: np.ndarray


@dataclass(frozen=True, eq=False)
class Base:
    """first, second: the ridges, in the outlook's units and in the other ones. root (H, H): A. kept (n, H): residuals of windows
    that the ridge was not fitted to, in its units, beside how wrong it was lately (n,). rms: of what it leaves."""

    outlook: Outlook
    first: Crossfitted
    second: Crossfitted
    root: np.ndarray
    kept: np.ndarray
    lately: np.ndarray
    rms: float

    def arrays(self) -> dict[str, np.ndarray]:
        """To keep in a run."""
        return {
            "first": self.first.weights,
            "second": self.second.weights,
            "root": self.root,
            "kept": self.kept.astype(np.float32),
            "lately": self.lately,
            "rms": np.array(self.rms),
            "penalties": np.array([self.first.penalty, self.second.penalty]),
        }

    @classmethod
    def of(cls, outlook: Outlook, arrays: Mapping[str, np.ndarray]) -> Base:
        """As it was kept."""
        penalties = arrays["penalties"]
        return cls(
            outlook,
            Crossfitted(arrays["first"], float(penalties[0])),
            Crossfitted(arrays["second"], float(penalties[1])),
            arrays["root"],
            arrays["kept"].astype(np.float64),
            arrays["lately"],
            float(arrays["rms"]),
        )

    # ---- what is known at origins ------------------------------------------------------------------------------------

    def expected(self, track: Track, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Shift and size (N,) of windows before origins, and what both ridges expect after them (N, H), in the series' units."""
        past = windows(track.filled, origins, self.outlook.past)
        made = []
        for scale, regression in ((self.outlook.scale, self.first), (self.outlook.other, self.second)):
            shift, size = measured(past, scale, self.outlook.season)
            told = features(past, shift, size, track, origins, self.outlook.horizon)
            made.append((shift, size, shift[:, None] + size[:, None] * regression(told, track.fold[origins])))
        return made[0][0], made[0][1], made[0][2], made[1][2]

    def table(self, track: Track, origins: np.ndarray) -> Table:
        """All that is known at these origins of a series, rising."""
        outlook, leads = self.outlook, self.outlook.horizon
        least = first_origin(outlook)
        span = (1 + LATELY) * leads
        reach = np.zeros(len(track.values) + 1, dtype=bool)
        begin = np.maximum(origins - span, min(least, int(origins.min())))
        edges = np.zeros(len(reach) + 1, dtype=np.int64)
        np.add.at(edges, begin, 1)
        np.add.at(edges, origins + 1, -1)
        reach[:] = np.cumsum(edges)[:-1] > 0
        every = np.flatnonzero(reach)
        place = np.full(len(reach), -1)
        place[every] = np.arange(len(every))
        shift, size, mean, second = self.expected(track, every)
        error = np.full_like(mean, np.nan)
        done = every + leads <= len(track.values)
        ahead = np.lib.stride_tricks.sliding_window_view(track.values, leads) if len(track.values) >= leads else None
        if ahead is not None and done.any():
            error[done] = ahead[every[done]] - mean[done]
        own = self._lately(error, every, origins, size[place[origins]])
        at = place[origins]
        told = np.zeros((len(origins), 2 * leads))
        for k in (1, 2):
            back = origins - k * leads
            before = np.where(back >= 0, place[np.maximum(back, 0)], -1)
            seen = np.where((before >= 0)[:, None], error[before], np.nan) / size[at][:, None]
            told[:, (k - 1) * leads : k * leads] = np.nan_to_num(seen)
        past = windows(track.values, origins, outlook.past)
        rough = _rough(windows(track.filled, origins, outlook.past), outlook)
        here, wide = shift[at][:, None], size[at][:, None]
        return Table(
            origins,
            shift[at],
            size[at],
            (mean[at] - here) / wide,
            (second[at] - here) / wide,
            told,
            own,
            rough,
            np.isfinite(past).mean(1),
        )

    def _lately(self, error: np.ndarray, every: np.ndarray, origins: np.ndarray, size: np.ndarray) -> np.ndarray:
        """The rms of errors of the last horizons that were over before each origin, in units of the usual ones: held to 1 by as
        much as one horizon of them."""
        leads = self.outlook.horizon
        known = np.isfinite(error)
        mean = np.where(known, error, 0.0).__pow__(2).sum(1) / np.maximum(known.sum(1), 1)
        whole = known.any(1)
        sums, counts = np.zeros(int(every[-1]) + 2), np.zeros(int(every[-1]) + 2)
        sums[every + 1], counts[every + 1] = np.where(whole, mean, 0.0), whole
        sums, counts = np.cumsum(sums), np.cumsum(counts)
        end = np.maximum(origins - leads + 1, 0)
        begin = np.maximum(end - LATELY * leads, 0)
        total, often = (sums[end] - sums[begin]) / size**2, counts[end] - counts[begin]
        usual = self.rms**2
        found = np.sqrt((total + leads * usual) / ((often + leads) * usual))
        return np.asarray(np.clip(found, 0.02, 50.0))

    # ---- what is learned ---------------------------------------------------------------------------------------------

    def told(self, track: Track, table: Table) -> np.ndarray:
        """What a network is told at the origins of a table, (N, D) float32."""
        outlook, origins = self.outlook, table.origins
        past = windows(track.filled, origins, outlook.past)
        return told(past, table, track.clock[origins], ahead_of(track, origins, outlook.horizon))

    def left(self, table: Table, after: np.ndarray) -> np.ndarray:
        """What the ridge leaves of what came after the origins (N, H), in units in which it has the covariance A A'."""
        left = (after - table.shift[:, None]) / table.size[:, None] - table.mean
        return np.asarray(left / table.own[:, None] if self.outlook.own else left)

    def restored(self, table: Table, left: np.ndarray) -> np.ndarray:
        """The other way: residuals (N, ..., H) -> values of the series."""
        wide = (len(table.size), *[1] * (left.ndim - 1))
        mean = table.mean.reshape(len(table.size), *[1] * (left.ndim - 2), -1)
        units = mean + (table.own.reshape(wide) * left if self.outlook.own else left)
        return np.asarray(table.shift.reshape(wide) + table.size.reshape(wide) * units)


def told(past: np.ndarray, table: Table, clock: np.ndarray, ahead: np.ndarray) -> np.ndarray:
    """What a network is told of windows: the past (N, P) in units, what the ridges expect, the errors of the first one, three
    facts, the clock (N, K), covariates of the leads (N, H c): (N, D) float32. Nothing of it changes where a series is multiplied
    or added to."""
    seen = (past - table.shift[:, None]) / table.size[:, None]
    seen = np.where(np.isfinite(seen), seen, 0.0)
    facts = np.stack((np.log(table.own), table.rough, 2 * table.share - 1), 1)
    parts = (
        np.clip(seen, -6, 6),
        np.clip(table.mean, -8, 8),
        np.clip(table.second - table.mean, -6, 6),
        np.clip(table.errors, -6, 6),
        facts,
        clock,
        ahead,
    )
    return np.concatenate([each.astype(np.float32) for each in parts], 1)


def first_origin(outlook: Outlook) -> int:
    """The first origin that is learned from: with a good part of its past."""
    return max(3, outlook.past // 2)


def _rough(past: np.ndarray, outlook: Outlook) -> np.ndarray:
    """ln of a step's size, in deviations: what a series looks like, whatever its units."""
    _, deviation = measured(past, "mean", outlook.season)
    _, step = measured(past, "last", outlook.season)
    return np.asarray(np.clip(np.log(step / deviation), -4, 4))


def features(
    past: np.ndarray, shift: np.ndarray, size: np.ndarray, track: Track, origins: np.ndarray, leads: int
) -> np.ndarray:
    """What a ridge is told: the past (N, P) in units, the clock, covariates that are known ahead: (N, d)."""
    seen = np.clip(np.nan_to_num((past - shift[:, None]) / size[:, None]), -FAR, FAR)
    return np.concatenate((seen, track.clock[origins], ahead_of(track, origins, leads)), 1)


def ahead_of(track: Track, origins: np.ndarray, leads: int) -> np.ndarray:
    """Known covariates of the leads after origins, (N, H c); the last ones again where they end."""
    many = track.known.shape[1]
    if not many:
        return np.zeros((len(origins), 0))
    at = np.minimum(origins[:, None] + np.arange(leads), len(track.known) - 1)
    return np.asarray(track.known[at].reshape(len(origins), -1))


def fit(outlook: Outlook, tracks: Sequence[Track], origins: Sequence[np.ndarray]) -> Base:
    """The base of series, fitted to windows after these origins, whose future is whole."""
    each = max(PER_SERIES, MOST_FITTED // max(1, len(tracks)))
    some = [own[np.unique(np.linspace(0, len(own) - 1, min(each, len(own))).astype(int))] for own in origins]
    first, second = (
        Sums.of(_parts(outlook, scale, tracks, some), _width(outlook, tracks[0]), outlook.horizon, FOLDS).fit()
        for scale in (outlook.scale, outlook.other)
    )
    blank = Base(outlook, first, second, np.eye(outlook.horizon), np.zeros((0, outlook.horizon)), np.zeros(0), 1.0)
    residuals = np.concatenate([left for _, _, left in _residuals(blank, tracks, some)])
    good = np.isfinite(residuals).all(1) & (np.abs(residuals) < FAR).all(1)
    if not good.any():
        return blank
    rms = float(np.sqrt((np.clip(residuals[good], -8, 8) ** 2).mean())) or 1.0
    known = Base(outlook, first, second, np.eye(outlook.horizon), residuals[:0], np.zeros(0), max(rms, 1e-9))
    lefts, owns = [], []
    for track, own, left in _residuals(known, tracks, some):
        fine = np.isfinite(left).all(1) & (np.abs(left) < FAR).all(1)
        if fine.any():
            table = known.table(track, own[fine])
            lefts.append(left[fine])
            owns.append(table.own)
    left, lately = np.concatenate(lefts), np.concatenate(owns)
    root = np.linalg.cholesky(covariance(left / lately[:, None] if outlook.own else left))
    chosen = np.unique(np.linspace(0, len(left) - 1, min(KEPT, len(left))).astype(int))
    return Base(outlook, first, second, root, left[chosen], lately[chosen], known.rms)


def _width(outlook: Outlook, track: Track) -> int:
    return outlook.past + track.clock.shape[1] + track.known.shape[1] * outlook.horizon


def _parts(
    outlook: Outlook, scale: str, tracks: Sequence[Track], origins: Sequence[np.ndarray]
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    for track, own in zip(tracks, origins):
        if not len(own):
            continue
        past = windows(track.filled, own, outlook.past)
        shift, size = measured(past, scale, outlook.season)
        told = features(past, shift, size, track, own, outlook.horizon)
        after = track.values[own[:, None] + np.arange(outlook.horizon)]
        wanted = (after - shift[:, None]) / size[:, None]
        good = (
            np.isfinite(wanted).all(1) & (np.abs(wanted) < FAR).all(1) & (np.abs(told[:, : outlook.past]) < FAR).all(1)
        )
        for fold in np.unique(track.fold[own]):
            mine = good & (track.fold[own] == fold)
            yield int(fold), told[mine], wanted[mine]


def _residuals(
    base: Base, tracks: Sequence[Track], origins: Sequence[np.ndarray]
) -> Iterator[tuple[Track, np.ndarray, np.ndarray]]:
    """Of each series its origins and what the ridge of the other folds leaves there, (n, H) in units of the window."""
    for track, own in zip(tracks, origins):
        if len(own):
            _, size, mean, _ = base.expected(track, own)
            after = track.values[own[:, None] + np.arange(base.outlook.horizon)]
            yield track, own, (after - mean) / size[:, None]


def folds_of(count: int, series: int, steps: int, horizon: int) -> np.ndarray:
    """The fold of each origin (steps + 1,) of series number ``series`` of ``count``: by series, or of a few by blocks of the
    time."""
    if count >= 2 * FOLDS:
        return np.full(steps + 1, series % FOLDS)
    block = max(1, -(-(steps + 1) // FOLDS))
    return np.minimum(np.arange(steps + 1) // block, FOLDS - 1)
