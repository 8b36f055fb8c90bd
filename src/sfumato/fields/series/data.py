"""Series made ready in a run: cache/series.npz, and what was fitted to them, cache/base.npz.

    file --reading--> pieces --grid--> lines --Base.fit--> ridges, covariance --Windows--> {"x", "weight", "told", "given"}

Of each series the last ``test`` horizons are learned from by nothing. Before them stand windows that the ridges are fitted to and
the network is not: of some series the last one, where there are many; of few series the last ones of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.data.arrays import kept_arrays
from sfumato.errors import DataError, Wrong, shown
from sfumato.fields.series import base as bases
from sfumato.fields.series import zones
from sfumato.fields.series.base import Outlook, Track
from sfumato.fields.series.facts import SeriesFacts
from sfumato.fields.series.frequency import Frequency, parsed
from sfumato.fields.series.grid import LEAST, Gridded, gridded
from sfumato.fields.series.pieces import Named, Source
from sfumato.fields.series.reading import read

if TYPE_CHECKING:
    from sfumato.training.run import Run

REMEDY = "train again from the series"
MANY = 40
"""Series from which on a share of them is held out, and the units need no own error."""
MOST_PAST = 336
LONG = 20
"""Times that a past of fourteen seasons goes into a series from which on it is looked back on as far, and not on seven."""
MOST_NUMBERS = 60_000_000
"""Numbers of the ridges' tables at most; of longer series the most recent origins are learned from."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of the data: the options of the recipe that bear on it. None: chosen."""

    named: Named
    freq: str | None
    horizon: int | None
    season: int | None
    past: int | None
    scale: str
    own: str
    test: int


def prepare(run: Run, path: Path, wanted: Wanted, tell: Callable[[str], None]) -> SeriesFacts:
    """Series into the run. Raises DataError, Wrong."""
    source, found = taken(path, wanted, tell)
    facts = _facts(source, found, wanted, path)
    lines, c = found.lines, len(facts.known)
    lengths = np.array([len(line.values) for line in lines])
    np.savez(
        run.cache / "series.npz",
        values=np.concatenate([line.values for line in lines]),
        starts=np.array([line.start for line in lines]),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        known=np.concatenate([line.known for line in lines]),
        ahead=np.array([len(line.known) - len(line.values) for line in lines])
        if c
        else np.zeros(len(lines), dtype=np.int64),
    )
    store = Store.read(run, facts)
    if not sum(len(store.learned(i, own=True)) for i in range(len(lines))):
        raise DataError(_too_short(path, facts))
    base = bases.fit(facts_plan(facts), store.tracks, [store.learned(i, own=True) for i in range(len(lines))])
    kept: Any = base.arrays()
    np.savez(run.cache / "base.npz", **kept)
    return _parted(run, path, store, replace(facts, rms=base.rms))


def prepare_further(run: Run, path: Path, base: SeriesFacts, tell: Callable[[str], None]) -> SeriesFacts:
    """Other series into a run that is tuned from another one, as that one reads them: by its step, horizon, past and ridges,
    which lie in the run already. Raises DataError, Wrong."""
    found = Store.after(path, base, tell)
    lengths = np.diff(found.offsets)
    facts = replace(
        found.facts, test=base.test, steps=int(lengths.sum()), gaps=int(np.isnan(found.values).sum()), taken=True,
        shortest=int(lengths.min()), longest=int(lengths.max()),
    )  # fmt: skip
    np.savez(
        run.cache / "series.npz", values=found.values, starts=found.starts, offsets=found.offsets, known=found.known,
        ahead=found.ahead,
    )  # fmt: skip
    return _parted(run, path, Store.read(run, facts), facts)


def _parted(run: Run, path: Path, store: Store, facts: SeriesFacts) -> SeriesFacts:
    """The facts with what is learned from and what is held out, written. Raises DataError where nothing is left."""
    learn, held = store.parts()
    if not sum(map(len, learn)):
        raise DataError(_too_short(path, facts))
    if not sum(map(len, held)):
        raise DataError(
            f"{shown(path)}: no window is left to hold out; give a shorter --horizon or --past, or more steps"
        )
    facts = replace(facts, windows=sum(map(len, learn)), held=sum(map(len, held)))
    facts.write(run)
    return facts


def _too_short(path: Path, facts: SeriesFacts) -> str:
    return (
        f"{shown(path)}: no window of {facts.past} and {facts.horizon} steps is left to learn from (the longest series has "
        f"{facts.longest}, and the last {facts.test} window(s) of each are kept); give a shorter --horizon or --past, "
        f"or fewer --test"
    )


def taken(path: Path, wanted: Wanted, tell: Callable[[str], None]) -> tuple[Source, Gridded]:
    """The series of a file on their grid. Raises DataError, Wrong."""
    source = read(path, wanted.named)
    return source, gridded(source, path, None if wanted.freq is None else parsed(wanted.freq), tell)


def _facts(source: Source, found: Gridded, wanted: Wanted, path: Path) -> SeriesFacts:
    """Choices made, from the step and the lengths. Raises Wrong."""
    frequency, lengths = found.frequency, [len(line.values) for line in found.lines]
    season = frequency.season if wanted.season is None else wanted.season
    if not found.dated and frequency.count == 1 and wanted.season is None:
        season = 1
    horizon = wanted.horizon or (frequency.horizon if found.dated or frequency.count > 1 else 24)
    seasons = 14 if max(lengths) >= LONG * 14 * season else 7
    usual = {"W": 52, "Y": 12}.get(frequency.name, 60) if season == 1 else max(seasons * season, horizon)
    longest = max(lengths) - (wanted.test + 1) * horizon
    past = wanted.past or max(min(usual, MOST_PAST, 2 * longest // 3), 3)
    if past < season:
        season = 1 if wanted.season is None else season
    if past < season:
        raise Wrong(f"season = {season}: must be at most --past {past}")
    scale = wanted.scale if wanted.scale != "auto" else "mean" if season > 1 else "last"
    own = wanted.own == "yes" or (wanted.own == "auto" and len(lengths) < MANY)
    shape = source.shape
    total = sum(max(0, n - past // 2) for n in lengths) * horizon * 2
    reach = 0 if total <= MOST_NUMBERS else max(1, MOST_NUMBERS // (2 * horizon * len(lengths)))
    clock = frequency.clock(np.zeros(1)).shape[1] if found.dated else 0
    return SeriesFacts(
        tuple(line.name for line in found.lines),
        shape.kind,
        shape.time,
        shape.id,
        shape.value,
        found.zone,
        found.dated,
        frequency.unit,
        frequency.count,
        frequency.anchor,
        frequency.turn,
        shape.known,
        sum(lengths),
        found.gaps,
        min(lengths),
        max(lengths),
        horizon,
        past,
        season,
        scale,
        own,
        wanted.test,
        0,
        0,
        reach,
        clock,
    )


def facts_plan(facts: SeriesFacts) -> Outlook:
    """What the base needs to know."""
    return Outlook(facts.horizon, facts.past, facts.season, facts.scale, facts.own)


@dataclass(frozen=True, eq=False)
class Store:
    """The series of a run: values, one after the other, and where each begins; the places of their first steps on the grid; known
    covariates."""

    facts: SeriesFacts
    values: np.ndarray
    offsets: np.ndarray
    starts: np.ndarray
    known: np.ndarray
    ahead: np.ndarray
    new: bool = False
    """Whether nothing was fitted to them."""

    @classmethod
    def read(cls, run: Run, facts: SeriesFacts) -> Store:
        """From a run. Raises DataError."""
        kept = kept_arrays(run.cache / "series.npz", REMEDY, 1 << 36)
        if (
            not {"values", "offsets", "starts", "known", "ahead"} <= set(kept)
            or len(kept["offsets"]) != len(facts.names) + 1
        ):
            raise DataError(f"{shown(run.cache)}: is not what data.json tells of; {REMEDY}")
        return cls(
            facts, kept["values"], kept["offsets"], kept["starts"], kept["known"], kept["ahead"], new=facts.taken
        )

    @classmethod
    def after(
        cls, path: Path, facts: SeriesFacts, tell: Callable[[str], None] = lambda text: None, least: int = LEAST
    ) -> Store:
        """Other series, of a file laid out like that of the run, to be forecast. Raises DataError, Wrong."""
        named = Named(
            facts.time or None,
            facts.id or None if facts.kind == "long" else None,
            (facts.value,) if facts.kind == "long" else None,
            facts.known,
            facts.zone if "/" in facts.zone else "",
        )
        found = gridded(
            read(path, named), path, facts.frequency if facts.dated else None, tell, average=False, least=least
        )
        if found.dated != facts.dated:
            raise DataError(
                f"{shown(path)}: has {'times' if found.dated else 'no times'}, unlike the series of the run"
            )
        lines, c = found.lines, len(facts.known)
        lengths = np.array([len(line.values) for line in lines])
        told = replace(facts, names=tuple(line.name for line in lines), test=0)
        return cls(
            told,
            np.concatenate([line.values for line in lines]),
            np.concatenate(([0], np.cumsum(lengths))),
            np.array([line.start for line in lines]),
            np.concatenate([line.known for line in lines]),
            np.array([len(line.known) - len(line.values) for line in lines])
            if c
            else np.zeros(len(lines), dtype=np.int64),
            new=True,
        )

    def __len__(self) -> int:
        return len(self.starts)

    def series(self, i: int) -> np.ndarray:
        """Its values (n,)."""
        return self.values[self.offsets[i] : self.offsets[i + 1]]

    def stamps(self, i: int, steps: np.ndarray) -> np.ndarray:
        """The stamps of steps of a series, counted from its first."""
        return self.facts.frequency.stamps(self.starts[i] + steps)

    def clock(self, i: int) -> np.ndarray:
        """What tells the time at each origin, (n + 1, K) float32."""
        n = int(self.offsets[i + 1] - self.offsets[i])
        return clock(self.facts, int(self.starts[i]), n)

    def covariates(self, i: int) -> np.ndarray:
        """Known covariates (n + ahead, c) in standard units of this series."""
        begin = int(self.offsets[i] + self.ahead[:i].sum())
        own = self.known[begin : begin + int(self.offsets[i + 1] - self.offsets[i] + self.ahead[i])]
        return standard(own)

    def track(self, i: int) -> Track:
        """A series as the base reads it, with the folds that it was fitted in."""
        values, facts = self.series(i), self.facts
        end = self.end(i)
        fold = np.full(len(values) + 1, -1)
        if end > 0 and not self.new:
            own = bases.folds_of(len(self), i, end, facts.horizon)
            fold[: end - facts.horizon + 1] = own[: max(0, end - facts.horizon + 1)]
        known = self.covariates(i) if facts.known else np.zeros((0, 0))
        return Track.of(values, facts_plan(facts), self.clock(i), known, fold)

    @cached_property
    def tracks(self) -> Sequence[Track]:
        """All of them."""
        return [self.track(i) for i in range(len(self))]

    def end(self, i: int) -> int:
        """The first step that nothing was fitted to."""
        return int(self.offsets[i + 1] - self.offsets[i]) - self.facts.test * self.facts.horizon

    def origins(self, i: int, end: int) -> np.ndarray:
        """Origins whose futures end before a step, the most recent ones, and hold a value."""
        facts = self.facts
        first = bases.first_origin(facts_plan(facts))
        if facts.reach:
            first = max(first, end - facts.horizon + 1 - facts.reach)
        return np.arange(first, end - facts.horizon + 1)

    def learned(self, i: int, own: bool) -> np.ndarray:
        """Origins that the ridges (``own``) or the network are fitted to, of whole futures or of such with some value."""
        end = self.end(i) if own else self.end(i) - self.holds(i)
        found = self.origins(i, end)
        if not len(found):
            return found
        there = np.isfinite(self.series(i))
        counts = np.concatenate(([0], np.cumsum(there)))
        seen = counts[found + self.facts.horizon] - counts[found]
        return found[seen == self.facts.horizon] if own else found[seen > 0]

    def holds(self, i: int) -> int:
        """Steps of a series, before those that are kept, that its network is not shown."""
        facts, n = self.facts, int(self.offsets[i + 1] - self.offsets[i])
        if len(self) >= MANY:
            return facts.horizon if i % 4 == 3 else 0
        room = max(0, self.end(i) - facts.past - facts.horizon)
        return min(max(1, min(20, n // (20 * facts.horizon))) * facts.horizon, room)

    def held(self, i: int) -> np.ndarray:
        """Origins that are held out: a horizon apart."""
        facts, end, span = self.facts, self.end(i), self.holds(i)
        found = np.arange(end - span, end - facts.horizon + 1, facts.horizon) if span else np.arange(0)
        there = np.isfinite(self.series(i))
        return np.array([o for o in found if o >= 3 and there[o : o + facts.horizon].any()], dtype=np.int64)

    def parts(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Origins of each series that are learned from, and that are held out."""
        return [self.learned(i, own=False) for i in range(len(self))], [self.held(i) for i in range(len(self))]

    def tests(self, i: int) -> np.ndarray:
        """Origins that are kept for the evaluation: a horizon apart, to the end."""
        facts, n = self.facts, int(self.offsets[i + 1] - self.offsets[i])
        found = n - facts.horizon * np.arange(facts.test, 0, -1)
        return found[found >= 3]


def clock(facts: SeriesFacts, start: int, n: int) -> np.ndarray:
    """What tells the time at each origin of a series of n steps from a place of the grid on, (n + 1, K) float32."""
    if not facts.clock:
        return np.zeros((n + 1, 0), dtype=np.float32)
    frequency: Frequency = facts.frequency
    stamps = frequency.stamps(start + np.arange(n + 1))
    return frequency.clock(stamps if frequency.local else zones.wall(stamps, facts.zone))


def standard(known: np.ndarray) -> np.ndarray:
    """Known covariates (n, c) about their mean, in their spread."""
    spread = known.std(0)
    return np.asarray((known - known.mean(0)) / np.where(spread > 0, spread, 1.0))
