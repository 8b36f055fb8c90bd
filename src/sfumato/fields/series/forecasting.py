"""Forecasts: queries of (series, origin), paths drawn for each, carried on horizon by horizon.

A query is a series and an origin; its samples are paths. Path i of a series is a function of (seed, series and origin, i) alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sfumato.errors import Wrong, shortened, shown
from sfumato.fields.series.base import Base, Table, Track
from sfumato.fields.series.data import Store
from sfumato.fields.series.white import White
from sfumato.fields.series.windowing import around, part

if TYPE_CHECKING:
    from sfumato.diffusion import Drawn
    from sfumato.fields.series.facts import SeriesFacts
    from sfumato.jobs.model import Model
    from sfumato.jobs.walk import Walk


@dataclass(frozen=True, eq=False)
class Spread:
    """How much wider paths are drawn than the network says, by walk: fitted on windows held out; of other walks 1."""

    factors: Mapping[str, float]

    def of(self, walk: Walk) -> float:
        """The factor of a walk."""
        return self.factors.get(walk_name(walk), 1.0)


def walk_name(walk: Walk) -> str:
    """What of a walk bears on how far paths are spread."""
    return f"{walk.solver}, {walk.steps or walk.tol} steps, {walk.grid}, eta {walk.eta:g}"


@dataclass(frozen=True, eq=False)
class Companions:
    """What forecasts need beside the network: the prepared series, what was fitted to them, how far paths are spread."""

    store: Store
    base: Base
    spread: Spread


@dataclass(frozen=True, eq=False)
class Path:
    """A sample: ``values`` (leads,) of a series after an origin, in its own units; the place of its first step on the grid; the
    number of the path."""

    facts: SeriesFacts
    series: str
    place: int
    values: np.ndarray
    number: int


@dataclass(frozen=True, eq=False)
class Case:
    """A series to forecast: its name, the place of its first step, its track, and the origin."""

    name: str
    start: int
    track: Track
    origin: int
    index: int = -1


@dataclass(frozen=True, eq=False)
class Forecasts:
    """``paths`` forecasts of ``leads`` steps of each of some cases: sample i is path i mod ``paths`` of case i div ``paths``.

    ``known`` (cases, H) bool and ``values`` (cases, H): steps of the future that are known, none unless told."""

    base: Base
    cases: Sequence[Case]
    tables: Sequence[Table]
    paths: int
    leads: int
    known: np.ndarray
    values: np.ndarray
    facts: Any = None
    buckets: None = None

    @classmethod
    def of(
        cls, base: Base, cases: Sequence[Case], paths: int, leads: int, known: np.ndarray | None = None,
        values: np.ndarray | None = None, facts: Any = None,
    ) -> Forecasts:  # fmt: skip
        """With what is known at each origin worked out."""
        tables = _tables(base, cases)
        shape = len(cases), base.outlook.horizon
        known = np.zeros(shape, dtype=bool) if known is None else known
        return cls(base, cases, tables, paths, leads, known, np.zeros(shape) if values is None else values, facts)

    def __len__(self) -> int:
        return len(self.cases) * self.paths

    def at(self, number: int) -> tuple[int, int]:
        """Its case, and the number of the path."""
        return number // self.paths, number % self.paths

    def name(self, number: int) -> tuple[str, int]:
        case, path = self.at(number)
        own = self.cases[case]
        return f"{own.name} {own.start + own.origin}", path

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The first horizon of each."""
        every = [self.at(number)[0] for number in numbers]
        cases, which = np.unique(every, return_inverse=True)
        told = np.concatenate([self.base.told(self.cases[c].track, self.tables[c]) for c in cases])
        left = np.concatenate([self.base.left(self.tables[c], self.values[c][None]) for c in cases])
        seen = around(left, self.known[cases], self.base)
        x = np.zeros((len(every), self.base.outlook.horizon), dtype=np.float32)
        return {
            "x": torch.from_numpy(x),
            "told": torch.from_numpy(told[which]),
            "around": torch.from_numpy(seen[which]),
        }

    def restored(self, numbers: Sequence[int], white: np.ndarray) -> np.ndarray:
        """White numbers (b, H) of these samples as values of their series, what is known as it was given."""
        cases = np.array([self.at(number)[0] for number in numbers])
        made = np.empty_like(white, dtype=np.float64)
        colour = White(self.base.root)
        for case in np.unique(cases):
            rows = cases == case
            table = self.tables[case]
            known = np.broadcast_to(self.known[case], (int(rows.sum()), white.shape[1]))
            left = np.broadcast_to(self.base.left(table, self.values[case][None]), known.shape)
            found = self.base.restored(table, colour.coloured(white[rows].astype(np.float64), known, left)[None])[0]
            made[rows] = np.where(known, self.values[case], found)
        return made


def _tables(base: Base, cases: Sequence[Case]) -> list[Table]:
    """What is known at the origin of each case; of cases of one series all at once."""
    found: dict[int, Table] = {}
    groups: dict[int, list[int]] = {}
    for at, case in enumerate(cases):
        groups.setdefault(id(case.track), []).append(at)
    for own in groups.values():
        origins = np.array([cases[at].origin for at in own])
        rising, back = np.unique(origins, return_inverse=True)
        table = base.table(cases[own[0]].track, rising)
        for at, row in zip(own, back):
            found[at] = part(table, np.array([row]))
    return [found[at] for at in range(len(cases))]


def cases_of(store: Store, series: Sequence[int], origins: Sequence[int]) -> list[Case]:
    """Cases of a run's own series."""
    return [
        Case(store.facts.names[i], int(store.starts[i]), store.tracks[i], int(o), i) for i, o in zip(series, origins)
    ]


def asked(model: Model, ask: Any, paths: int) -> Forecasts:
    """The forecasts that somebody asks for. Raises Wrong, DataError."""
    companions, facts = model.companions, model.facts
    store, leads = companions.store, ask.leads or facts.horizon
    if paths < 1:
        raise Wrong(f"n = {paths}: must be at least 1")
    if ask.after is not None:
        store = Store.after(ask.after, facts)
    known = {name: i for i, name in enumerate(store.facts.names)}
    if wrong := [name for name in ask.series if name not in known]:
        raise Wrong(f"series = {wrong[0]!r}: must be one of {shortened(', '.join(map(shown, known)), 200)}")
    chosen = [known[name] for name in ask.series] or list(range(len(known)))
    origins = []
    for i in chosen:
        tests = store.tests(i)
        origins.append(int(tests[0]) if ask.start == "test" and len(tests) else len(store.series(i)))
    cases = cases_of(store, chosen, origins)
    held, values = (None, None) if ask.given is None else scenario(ask.given, store, cases)
    return Forecasts.of(companions.base, cases, paths, leads, held, values, store.facts)


def scenario(file: File, store: Store, cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray]:
    """What a table says of the first horizon of each case: where it says something (cases, H) bool, and the values. Raises
    DataError, Wrong."""
    told = Store.after(file, store.facts, least=1)
    names, leads = {name: i for i, name in enumerate(told.facts.names)}, store.facts.horizon
    values = np.full((len(cases), leads), np.nan)
    for row, case in zip(values, cases):
        if case.name in names:
            i = names[case.name]
            own, at = told.series(i), np.arange(leads) + case.start + case.origin - int(told.starts[i])
            there = (at >= 0) & (at < len(own))
            row[there] = own[at[there]]
    known = np.isfinite(values)
    if not known.any():
        raise Wrong(
            f"given = {str(file)!r}: must hold values of a series within the {leads} steps after its origin; it holds none"
        )
    return known, np.where(known, values, 0.0)


def drawn(model: Model, forecasts: Forecasts, numbers: Sequence[int]) -> Iterator[Drawn]:
    """Paths of these numbers, x (b, leads) in the units of the series."""
    from sfumato.diffusion import Drawn

    horizon = forecasts.base.outlook.horizon
    for whole in model.draw(forecasts, numbers):
        values = forecasts.restored(whole.numbers, spread(model, forecasts, whole))
        if forecasts.leads > horizon:
            values = _further(model, forecasts, whole.numbers, values)
        yield Drawn(torch.from_numpy(values[:, : forecasts.leads]), {}, whole.numbers, whole.scores)


def spread(model: Model, forecasts: Forecasts, whole: Drawn) -> np.ndarray:
    """White numbers (b, H) about the mean that the network expects, as far from it as the windows held out say."""
    white = whole.x.float().cpu().numpy().astype(np.float64)
    factor = model.companions.spread.of(model.walk)
    if factor == 1:
        return white
    cases = [forecasts.at(number)[0] for number in whole.numbers]
    _, first, back = np.unique(cases, return_index=True, return_inverse=True)  # one centre for all paths of a case
    centre = expected(model, {name: value[torch.from_numpy(first)] for name, value in whole.query.items()})[back]
    return np.asarray(centre + factor * (white - centre))


def learns(model: Model) -> str:
    """What a model's network answers."""
    recipe: Any = model.recipe
    return str(recipe.method.learn)


@torch.no_grad()
def expected(model: Model, query: Any) -> np.ndarray:
    """The mean of the white numbers that a query's network expects, (b, H): its guess where nothing is seen but noise of 0."""
    x = query["x"].to(model.device)
    condition = {name: query[name].to(model.device) for name in ("told", "around")}
    one = torch.ones(len(x), device=x.device)
    guess = plain(model)(torch.zeros_like(x), one, **condition)
    found: np.ndarray = guess.x.float().cpu().numpy().astype(np.float64)
    return found


def plain(model: Model) -> Any:
    """The denoiser of a model, of a flow map its jump from noise to data."""
    if not model.adaptations:
        return model.denoiser

    def jump(x: Any, t: Any, **condition: Any) -> Any:
        return model.denoiser(x, t, torch.zeros_like(t), **condition)

    return jump


def _further(model: Model, forecasts: Forecasts, numbers: Sequence[int], values: np.ndarray) -> np.ndarray:
    """Paths (b, H) carried on, each from its own end, until they are long enough: (b, k H)."""
    made, leads, base = values, forecasts.leads, forecasts.base
    block = 1
    while made.shape[1] < leads:
        cases = []
        for number, path in zip(numbers, made):
            own = forecasts.cases[forecasts.at(number)[0]]
            cases.append(continued(base, model.facts, own, path))
        one = Forecasts.of(base, cases, 1, base.outlook.horizon)
        more = np.empty((len(cases), base.outlook.horizon))
        for whole in model.draw(_Named(one, forecasts, numbers), range(len(cases)), stream=("horizon", block)):
            more[list(whole.numbers)] = one.restored(whole.numbers, spread(model, one, whole))
        made, block = np.concatenate((made, more), 1), block + 1
    return made


@dataclass(frozen=True, eq=False)
class _Named:
    """Later horizons under the names of the paths that they belong to."""

    later: Forecasts
    forecasts: Forecasts
    numbers: Sequence[int]
    buckets: None = None

    def __len__(self) -> int:
        return len(self.later)

    def name(self, number: int) -> tuple[str, int]:
        return self.forecasts.name(self.numbers[number])

    def batch(self, numbers: Sequence[int]) -> dict[str, Any]:
        return self.later.batch(numbers)


def continued(base: Base, facts: SeriesFacts, case: Case, path: np.ndarray) -> Case:
    """A case that has gone on along a path: of its past as much as the base reads."""
    from sfumato.fields.series.data import clock

    outlook = base.outlook
    back = min(case.origin, outlook.past + 6 * outlook.horizon)
    begin = case.origin - back
    values = np.concatenate((case.track.values[begin : case.origin], path))
    start = case.start + begin
    track = Track.of(values, outlook, clock(facts, start, len(values)), case.track.known[begin:], -1)
    return Case(case.name, start, track, len(values))


def things(model: Model, forecasts: Forecasts, whole: Drawn) -> list[Path]:
    """Paths, one a sample; of numbers as the network draws them (pictures of a conversion) those of one horizon."""
    values = whole.x.float().cpu().numpy() if "told" in whole.query else whole.x.cpu().numpy()
    if "told" in whole.query:
        values = forecasts.restored(whole.numbers, values)
    found = []
    for number, row in zip(whole.numbers, values):
        case, path = forecasts.at(number)
        own = forecasts.cases[case]
        found.append(Path(model.facts, own.name, own.start + own.origin, row, path))
    return found
