"""Forecasts that need no network, to be measured beside a model's: persistence, climatology, analogs, and the linear bar.

Each gives an ensemble of the fields at every lead, (members, leads, C, rows, columns) in standard units, and knows of the times
learned from alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sfumato.data.ridge import Design, Ridge, crossed, fits
from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.grid import clock, said
from sfumato.fields.weather.mean import features

Baseline = Callable[[int, int], np.ndarray]
"""The place of a start in time, and the number of members of the forecast it stands beside -> an ensemble."""
NEAR, MOST_YEARS = 10, 60
"""Days around the date, and members at most, of the climatology."""
ALIKE = 20
"""Analogs."""
YEAR = 31556952


def baselines(store: Store, leads: int) -> dict[str, Baseline]:
    """All of them that these fields allow, by name."""
    linear = Linear.of(store, leads)
    found: dict[str, Baseline] = {
        "persistence": lambda start, members: np.repeat(store.standard(np.array([start]))[:, None], leads, 1),
        "climatology": lambda start, members: _climatology(store, start, leads),
    }
    if analogs := Analogs.of(store, leads):
        found["analogs"] = analogs
    return found | ({"ridge": linear} if linear is not None else {})


def climate(store: Store, seconds: int) -> np.ndarray:
    """The places in time of the climatology of a moment: of the times learned from those at the same time of the day and within
    ten days of the date in any year, at most 60 of them, evenly; where there are fewer than two, of any date."""
    times = store.times[store.times < store.facts.until]
    same = (times - seconds) % 86400 == 0
    same = same if same.sum() >= 2 else np.ones(len(times), dtype=bool)
    apart = np.abs((times - seconds + YEAR // 2) % YEAR - YEAR // 2)
    own = np.flatnonzero(same & (apart <= NEAR * 86400))
    own = own if len(own) >= 2 else np.flatnonzero(same)
    return own if len(own) <= MOST_YEARS else own[np.linspace(0, len(own) - 1, MOST_YEARS).round().astype(int)]


def _climatology(store: Store, start: int, leads: int) -> np.ndarray:
    due = int(store.times[start]) + store.facts.step * np.arange(1, leads + 1)
    there = [climate(store, int(each)) for each in due]
    least = min(map(len, there))  # as many at every lead
    return np.stack(
        [store.standard(each[np.linspace(0, len(each) - 1, least).round().astype(int)]) for each in there], 1
    )


def _learned(store: Store, leads: int) -> np.ndarray:
    """The places of times learned from whose frame before and whose next ``leads`` are learned from too."""
    return store.starts(store.facts.first, store.facts.until, leads)


def _after(store: Store, at: np.ndarray, leads: int) -> np.ndarray:
    """What came after the times at these places, (n, leads, C, rows, columns) in standard units."""
    step = store.facts.step
    return np.stack([store.standard(places(store.times, store.times[at] + k * step)) for k in range(1, leads + 1)], 1)


@dataclass(frozen=True, eq=False)
class Analogs:
    """What followed on those twenty of the days learned from that were most alike, by the mean square over area and channels."""

    store: Store
    leads: int
    at: np.ndarray
    states: np.ndarray

    @classmethod
    def of(cls, store: Store, leads: int) -> Analogs | None:
        """None where there are too few days, or too much of them to hold."""
        at = _learned(store, leads)
        if len(at) < 2 or not fits(len(at), int(np.prod(store.frames.shape[1:])), 1):
            return None
        root = np.sqrt(store.area)
        return cls(store, leads, at, (store.standard(at) * root).reshape(len(at), -1))

    def __call__(self, start: int, members: int) -> np.ndarray:
        now = (self.store.standard(np.array([start])) * np.sqrt(self.store.area)).reshape(1, -1)
        apart = np.square(self.states - now).sum(1)
        return _after(self.store, self.at[np.argsort(apart, kind="stable")[:ALIKE]], self.leads)


@dataclass(frozen=True, eq=False)
class Linear:
    """The linear bar: for each lead a ridge regression on two frames and the clock, and members that differ by whole
    fields of its residuals, of days drawn from those learned from, each foretold by regressions on other years."""

    store: Store
    ridges: tuple[Ridge, ...]
    residuals: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, store: Store, leads: int) -> Linear | None:
        """None where there are too few days, or where it would be too large."""
        at = _learned(store, leads)
        cells = int(np.prod(store.frames.shape[1:]))
        if len(at) < 16 or not fits(len(at), 2 * cells + 4, cells):
            return None
        known = _known(store, at)
        wanted = [each.reshape(len(at), -1) for each in _after(store, at, leads).swapaxes(0, 1)]
        design = Design.of(known)
        ridges = tuple(design.fit(each) for each in wanted)
        other = crossed(known, wanted, [ridge.penalty for ridge in ridges])
        return cls(store, ridges, tuple(y - guess for y, guess in zip(wanted, other)))

    def __call__(self, start: int, members: int) -> np.ndarray:
        store = self.store
        known = _known(store, np.array([start]))
        chance = np.random.default_rng(np.frombuffer(said(store.times[start]).encode(), dtype=np.uint8).tolist())
        days = chance.choice(len(self.residuals[0]), members, replace=members > len(self.residuals[0]))
        found = [ridge(known) + left[days] for ridge, left in zip(self.ridges, self.residuals)]
        return np.stack(found, 1).reshape(members, len(found), *store.frames.shape[1:])


def _known(store: Store, at: np.ndarray) -> np.ndarray:
    """Two frames, and the clock of the first lead: that of another says the same."""
    step = store.facts.step
    before = places(store.times, store.times[at] - step)
    return features(np.concatenate((store.standard(at), store.standard(before)), 1), clock(store.times[at] + step))
