"""Paths of windows that nothing was learned from, measured beside the cheap bars on the same windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sfumato.fields.series import bars, scoring
from sfumato.fields.series.bars import COPULA, NAIVE, OWN, RIDGE, WHOLE, Bars
from sfumato.fields.series.data import Store
from sfumato.fields.series.forecasting import Case, Forecasts, cases_of, drawn
from sfumato.fields.series.scoring import LEVELS, Scores, Window
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.fields.series.options import ForecastAsk, SeriesMeasure
    from sfumato.jobs.model import Model

MODEL, APART = "sfumato", "sfumato, independent"
FEW = 20
"""Series below which windows that begin together are drawn again together, not those of a series."""
TOGETHER = 200_000
"""Paths times leads drawn at once, about."""
CURVE = np.arange(1, 20) / 20


@dataclass(frozen=True, eq=False)
class Measured:
    """Scores, and what pictures need: ranks of what came among the paths (bins,), coverage at levels of steps and of sums."""

    scores: Scores
    ranks: np.ndarray
    covered: np.ndarray
    sums: np.ndarray


def cases(model: Model, measure: SeriesMeasure, ask: ForecastAsk) -> list[Case]:
    """The windows to measure on. Raises RunError."""
    store = model.companions.store
    names = {name: i for i, name in enumerate(store.facts.names)}
    chosen = [names[name] for name in ask.series if name in names] or range(len(store))
    every = [(i, int(o)) for i in chosen for o in (store.held(i) if measure.held else store.tests(i))
             if np.isfinite(store.series(i)[o : o + store.facts.horizon]).any()]  # fmt: skip
    if len(every) < 2:
        raise RunError(
            f"{model.run.path}: {len(every)} window(s) were kept; two are needed to measure: train with --test 1 or more"
        )
    some = np.unique(np.linspace(0, len(every) - 1, min(measure.most, len(every))).astype(int))
    return cases_of(store, [every[k][0] for k in some], [every[k][1] for k in some])


def measured(model: Model, chosen: list[Case], count: int) -> Measured:
    """All scores of the model and of the bars on these windows."""
    store, base = model.companions.store, model.companions.base
    beside = Bars(base) if len(base.kept) else None
    chance = np.random.default_rng(0)
    every: list[Mapping[str, Mapping[str, float]]] = []
    ranks, covered, sums = np.zeros(21), [], []
    for case, table, paths in ensembles(model, chosen, count):
        window = window_of(store, case)
        found = {MODEL: scoring.of_paths(paths, window), APART: scoring.of_paths(scoring.apart(paths, chance), window)}
        past = case.track.filled[: case.origin]
        found[NAIVE] = scoring.of_quantiles(
            *bars.of_normal(*bars.naive(past, len(window.truth), store.facts.season)), window
        )
        if beside is not None:
            found[RIDGE] = scoring.of_quantiles(*beside.quantiles(table, False), window)
            found[OWN] = scoring.of_quantiles(*beside.quantiles(table, True), window)
            for name, rival in beside.paths(table, count, chance).items():
                found[name] = scoring.of_paths(rival, window)
        every.append(found)
        there = np.isfinite(window.truth)
        below = (paths[:, there] < window.truth[there]).sum(0) + chance.uniform(size=int(there.sum())) * (
            1 + (paths[:, there] == window.truth[there]).sum(0)
        )
        ranks += np.histogram(below / (count + 1), bins=21, range=(0, 1))[0]
        covered.append(_covered(paths[:, there], window.truth[there]).mean(1))
        if there.all():
            sums.append(_covered(paths.sum(1)[:, None], window.truth.sum()[None])[:, 0])
    few = len({case.index for case in chosen}) < FEW
    groups = [case.start + case.origin if few else case.index for case in chosen]
    together = np.mean(sums, 0) if sums else np.full(len(CURVE), np.nan)
    return Measured(Scores.of(every, groups), ranks / max(ranks.sum(), 1), np.mean(covered, 0), together)


def _covered(paths: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Whether intervals of the levels of the curve hold what came, (levels, H)."""
    low = np.quantile(paths, (1 - CURVE) / 2, axis=0)
    high = np.quantile(paths, (1 + CURVE) / 2, axis=0)
    return np.asarray((low <= truth) & (truth <= high))


def window_of(store: Store, case: Case) -> Window:
    """What came after an origin, and the scale of the series before it."""
    truth = case.track.values[case.origin : case.origin + store.facts.horizon]
    return Window(truth, scoring.scale_of(case.track.values[: case.origin], store.facts.season))


def ensembles(model: Model, chosen: list[Case], count: int) -> Iterator[tuple[Case, Any, np.ndarray]]:
    """Each window, what is known at its origin, and paths (M, H) in its units."""
    from sfumato.training.progress import Watch

    base = model.companions.base
    many = max(1, TOGETHER // (count * base.outlook.horizon))
    with Watch("forecast", len(chosen), unit="windows") as watch:
        for first in range(0, len(chosen), many):
            own = chosen[first : first + many]
            forecasts = Forecasts.of(base, own, count, base.outlook.horizon)
            values = np.empty((len(forecasts), base.outlook.horizon))
            for part in drawn(model, forecasts, range(len(forecasts))):
                values[list(part.numbers)] = part.x.numpy()
            yield from zip(own, forecasts.tables, values.reshape(len(own), count, -1))
            watch.show(min(first + many, len(chosen)))


__all__ = [
    "APART",
    "COPULA",
    "LEVELS",
    "MODEL",
    "NAIVE",
    "OWN",
    "RIDGE",
    "WHOLE",
    "Measured",
    "cases",
    "measured",
]
