"""`sfumato evaluate` of forecasts: proper scores by lead, calibration, and what needs no network beside them.

Floors: nobody can know what a perfect forecast of this weather would score. Beside each score stand those of persistence (the
start, again), climatology (what was there at this time of other years), analogs, and the bar that counts: a linear
regression whose members differ by its own residuals. All of them are scored on the same starts, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.weather.baselines import Baseline, baselines
from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.grid import moment, said
from sfumato.fields.weather.report import report
from sfumato.fields.weather.rollout import Forecasts, drawn
from sfumato.fields.weather.scoring import MODEL, Scores, Scoring, scores
from sfumato.jobs.report import Report
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.fields.weather.options import ForecastAsk, ForecastMeasure
    from sfumato.jobs.model import Model


@dataclass(frozen=True, eq=False)
class Case:
    """What one start gives to :class:`Scores`."""

    start: int
    by: Mapping[str, Mapping[str, Tensor]]
    ranks: Tensor
    power: Mapping[str, Tensor]


def cases(model: Model, measure: ForecastMeasure, ask: ForecastAsk) -> np.ndarray:
    """The places of the starts to measure at. Raises RunError, Wrong."""
    store, facts = model.companions, model.facts
    since = facts.until if measure.since is None else moment("since", measure.since)
    before = facts.held_until if measure.before is None else moment("before", measure.before)
    if ask.start:
        from sfumato.fields.weather.rollout import asked

        return asked(model, ask.start, ask.leads, measure.n).starts
    there = store.starts(since, before, ask.leads)
    if len(there) < 2:
        raise RunError(
            f"{model.run.path}: {len(there)} start(s) between {said(since)} and {said(before)} have their truth for {ask.leads} "
            "leads; two are needed: fewer --leads, or another --since and --before"
        )
    return there[np.unique(np.linspace(0, len(there) - 1, min(measure.cases, len(there))).round().astype(int))]


def score(
    model: Model, starts: np.ndarray, members: int, leads: int, beside: Mapping[str, Baseline] | None = None
) -> Scores:
    """Forecasts drawn from these starts, and how good they and the baselines were. Raises RunError for a truth that is
    not there."""
    beside = baselines(model.companions, leads) if beside is None else beside
    return gathered(model.companions, list(scored(model, starts, members, leads, beside)), members, leads)


def scored(
    model: Model, starts: np.ndarray, members: int, leads: int, beside: Mapping[str, Baseline]
) -> Iterator[Case]:
    """Each start's scores, as they come."""
    scoring = Scoring(model.companions)
    for start, x in ensembles(model, starts, members, leads):
        yield case(scoring, start, x.double(), beside)


def ensembles(model: Model, starts: np.ndarray, members: int, leads: int) -> Iterator[tuple[int, Tensor]]:
    """Each start and its forecast (M, leads, C, rows, columns) in standard units, as they come."""
    from sfumato.training.progress import Watch

    forecasts = Forecasts(model.companions, starts, members, leads)
    together = max(1, (model.walk.batch or 16) // members)
    with Watch("forecast", len(starts), unit="starts") as watch:
        for first in range(0, len(starts), together):
            own = range(first * members, min(first + together, len(starts)) * members)
            x = torch.cat([_tensor(part.x) for part in drawn(model, forecasts, own)])
            for i, each in enumerate(x.split(members)):
                yield int(starts[first + i]), each
            watch.show(min(first + together, len(starts)))


def case(scoring: Scoring, start: int, x: Tensor, beside: Mapping[str, Baseline]) -> Case:
    """The scores of one forecast x (M, leads, C, rows, columns) float64 in standard units, and of the baselines."""
    store, leads = scoring.store, x.shape[1]
    truth, due = truth_of(store, start, leads), due_of(store, start, leads)
    every = {MODEL: x} | {name: torch.from_numpy(make(start, len(x))).double() for name, make in beside.items()}
    # scores of pairs of cells take the longest: of the model, and of the bar that it is held against
    by = {
        name: scores(scoring, each, truth, due) if name in (MODEL, "ridge") else scoring.plain(each, truth)
        for name, each in every.items()
    }
    power = {name: scoring.power(each).mean(0) for name, each in every.items() if name in (MODEL, "ridge")}
    chance = torch.Generator().manual_seed(int(store.times[start]) % 2**31)
    return Case(start, by, scoring.ranks(x, truth, chance), power | {"truth": scoring.power(truth)})


def gathered(store: Store, done: Sequence[Case], members: int, leads: int) -> Scores:
    """The scores of cases together."""
    by = {name: {score: torch.stack([each.by[name][score] for each in done]).numpy() for score in done[0].by[name]}
          for name in done[0].by}  # fmt: skip
    power = {name: torch.stack([each.power[name] for each in done]).mean(0).numpy() for name in done[0].power}
    begun = store.times[np.array([each.start for each in done])]
    return Scores(by, torch.stack([each.ranks for each in done]).mean(0).numpy(), power, begun, members, leads)


def _tensor(x: Any) -> Tensor:
    assert isinstance(x, Tensor)
    return x


def due_of(store: Store, start: int, leads: int) -> np.ndarray:
    """The times of the leads from a start, (leads,)."""
    return np.asarray(store.times[start] + store.facts.step * np.arange(1, leads + 1))


def truth_of(store: Store, start: int, leads: int) -> Tensor:
    """What came, (leads, C, rows, columns) float64 in standard units. Raises RunError where it is not known."""
    due = due_of(store, start, leads)
    at = places(store.times, due)
    if (at < 0).any():
        missing = due[int(np.flatnonzero(at < 0)[0])]
        raise RunError(
            f"what came at {said(missing)}, forecast from {said(store.times[start])}, is not in the data of the run"
        )
    return torch.from_numpy(store.standard(at)).double()


def evaluate(model: Model, measure: ForecastMeasure, ask: ForecastAsk) -> Report:
    """Forecasts from held-out starts, measured. Raises RunError, DataError, MetricError."""
    starts = cases(model, measure, ask)
    found = score(model, starts, measure.n, ask.leads)
    return report(model, found, pictures_of(model, found, int(starts[len(starts) // 2]), ask.leads))


def pictures_of(model: Model, found: Scores, start: int, leads: int, members: int = 8) -> dict[str, Any]:
    """Maps and plume of a forecast from one start, and the rank histogram: name -> what to save. None of them without
    matplotlib."""
    from sfumato.fields.weather.plume import Plume, Ranks
    from sfumato.jobs.plots import available

    if not available():
        return {}
    forecasts = Forecasts(model.companions, np.array([start]), members, leads)
    things = [
        thing
        for part in drawn(model, forecasts, range(members))
        for thing in model.recipe.things(model, forecasts, part)
    ]
    maps = model.recipe.picture(model, things)
    return {
        "forecast.png": maps,
        "plume.png": Plume(model.companions, things),
        "ranks.png": Ranks(model.facts, found.ranks),
    }
