"""Filling gaps by the weights that forecast: a gap is the unknown part of a horizon, and what stands around it is known.

Each gap begins a horizon, of which the first two thirds are kept: so it is drawn for a third of what comes after it, too.
Horizons of different gaps are drawn at once, for a past whose own gaps hold what was there a season before, and a second time
for a past whose gaps hold the means of the first. A gap too long for one horizon is gone on with by each path for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.series.base import Base, Track
from sfumato.fields.series.data import Store, facts_plan
from sfumato.fields.series.forecasting import Case, Forecasts, continued, spread

if TYPE_CHECKING:
    from sfumato.jobs.model import Model

FIRST_PATHS = 32
LEAST = 3


@dataclass(frozen=True)
class Block:
    """A horizon that begins at a gap: its origin, the step up to which its draws are kept, and whether it goes on in the middle
    of a gap that the block before it began."""

    origin: int
    end: int
    goes_on: bool


@dataclass(frozen=True, eq=False)
class Filled:
    """A series whose gaps ``at`` (g,) were drawn: ``drawn`` (n, g), a row a path."""

    name: str
    index: int
    at: np.ndarray
    drawn: np.ndarray


def blocks(values: np.ndarray, leads: int) -> list[Block]:
    """Horizons that hold all gaps of a series between its values."""
    gone = np.flatnonzero(~np.isfinite(values))
    there = np.isfinite(values)
    found: list[Block] = []
    done = 0
    for gap in gone.tolist():
        if gap < done:
            continue
        goes_on = bool(found) and gap == done and not there[gap - 1]
        whole, most = gap + leads, gap + max(1, leads - leads // 3)
        end = most
        while end > gap + leads // 2 and end < len(values) and not there[end]:  # do not cut a gap in two
            end -= 1
        if end < len(values) and not there[end] and end <= gap + leads // 2:
            end = most
        if whole >= len(values):
            end = len(values)
        end = max(end, gap + 1)
        found.append(Block(gap, end, goes_on))
        done = end
    return found


def fill(model: Model, store: Store, n: int, passes: int = 2, stream: str = "fill") -> list[Filled]:
    """n draws of every gap of every series; of a gap before the third value, which has no past, none."""
    base = model.companions.base
    means: list[np.ndarray | None] = [None] * len(store)
    found: list[Filled] = []
    for turn in range(passes):
        last = turn == passes - 1
        paths = n if last else min(n, FIRST_PATHS)
        found = _filled(model, base, store, means, paths, f"{stream} {turn}")
        means = [None] * len(store)
        for each in found:
            values = store.series(each.index).copy()
            values[each.at] = each.drawn.mean(0)
            means[each.index] = values
    return found


def _filled(
    model: Model, base: Base, store: Store, means: Sequence[np.ndarray | None], n: int, stream: str
) -> list[Filled]:
    """One pass over all gaps, with the means of the last one in the past."""
    leads, outlook = base.outlook.horizon, facts_plan(store.facts)
    tracks = [_track(store, i, means[i], outlook) for i in range(len(store))]
    drawn = {
        i: np.full((n, len(store.series(i))), np.nan)
        for i in range(len(store))
        if not np.isfinite(store.series(i)).all()
    }
    due = {i: [block for block in blocks(store.series(i), leads) if block.origin >= LEAST] for i in drawn}
    first = [(i, block) for i, own in due.items() for block in own if not block.goes_on]
    _draw(model, base, store, tracks, first, drawn, n, stream)
    later = [(i, block) for i, own in due.items() for block in own if block.goes_on]
    later.sort(key=lambda pair: pair[1].origin)
    for i, block in later:
        _go_on(model, base, store, tracks[i], i, block, drawn[i], stream)
    made = []
    for i, values in drawn.items():
        at = np.flatnonzero(~np.isfinite(store.series(i)) & np.isfinite(values).all(0))
        made.append(Filled(store.facts.names[i], i, at, values[:, at]))
    return made


def _track(store: Store, i: int, mean: np.ndarray | None, outlook: object) -> Track:
    """A series with its gaps, whose past holds what was drawn on average where that is known."""
    own = store.track(i)
    if mean is None:
        return own
    return Track(own.values, np.where(np.isfinite(mean), mean, own.filled), own.clock, own.known, own.fold)


def _around(values: np.ndarray, origin: int, leads: int) -> tuple[np.ndarray, np.ndarray]:
    """What of a horizon is known (H,) bool, and the values, 0 elsewhere."""
    part = np.full(leads, np.nan)
    own = values[origin : origin + leads]
    part[: len(own)] = own
    known = np.isfinite(part)
    return known, np.where(known, part, 0.0)


def _draw(
    model: Model, base: Base, store: Store, tracks: Sequence[Track], every: Sequence[tuple[int, Block]],
    drawn: dict[int, np.ndarray], n: int, stream: str,
) -> None:  # fmt: skip
    """Blocks that begin gaps, all at once."""
    from sfumato.training.progress import Watch

    leads, many = base.outlook.horizon, max(1, 400_000 // (n * base.outlook.horizon))
    with Watch("fill", len(every), unit="gaps") as watch:
        for start in range(0, len(every), many):
            own = every[start : start + many]
            cases = [Case(store.facts.names[i], int(store.starts[i]), tracks[i], block.origin, i) for i, block in own]
            around = [_around(store.series(i), block.origin, leads) for i, block in own]
            forecasts = Forecasts.of(
                base, cases, n, leads, np.stack([k for k, _ in around]), np.stack([v for _, v in around])
            )
            values = np.empty((len(forecasts), leads))
            for part in model.draw(forecasts, range(len(forecasts)), stream=(stream,)):
                values[list(part.numbers)] = forecasts.restored(part.numbers, spread(model, forecasts, part))
            for (i, block), paths in zip(own, values.reshape(len(own), n, leads)):
                _keep(drawn[i], store.series(i), block, paths)
            watch.show(min(start + many, len(every)))


def _keep(into: np.ndarray, series: np.ndarray, block: Block, paths: np.ndarray) -> None:
    end = min(block.end, len(series))
    at = np.arange(block.origin, end)
    at = at[~np.isfinite(series[at])]
    into[:, at] = paths[:, at - block.origin]


def _go_on(
    model: Model, base: Base, store: Store, track: Track, i: int, block: Block, drawn: np.ndarray, stream: str
) -> None:
    """The rest of a gap longer than a horizon, each path from what it drew before."""
    leads, facts, series = base.outlook.horizon, store.facts, store.series(i)
    begin = block.origin - 1
    while begin > 0 and not np.isfinite(series[begin - 1]):
        begin -= 1
    before = Case(facts.names[i], int(store.starts[i]), track, begin, i)
    filled = Track(track.filled, track.filled, track.clock, track.known, track.fold)
    before = Case(before.name, before.start, filled, begin, i)
    cases = [continued(base, facts, before, path) for path in drawn[:, begin : block.origin]]
    known, values = _around(series, block.origin, leads)
    many = np.broadcast_to(known, (len(cases), leads)), np.broadcast_to(values, (len(cases), leads))
    forecasts = Forecasts.of(base, cases, 1, leads, *many)
    made = np.empty((len(cases), leads))
    for part in model.draw(
        _Numbered(forecasts, f"{before.name} {block.origin}"), range(len(cases)), stream=(stream, "on")
    ):
        made[list(part.numbers)] = forecasts.restored(part.numbers, spread(model, forecasts, part))
    _keep(drawn, series, block, made)


@dataclass(frozen=True, eq=False)
class _Numbered:
    """Paths that go on, each with randomness of its own."""

    forecasts: Forecasts
    word: str
    buckets: None = None

    def __len__(self) -> int:
        return len(self.forecasts)

    def name(self, number: int) -> tuple[str, int]:
        return self.word, number

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        return self.forecasts.batch(numbers)
