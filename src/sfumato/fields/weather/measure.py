"""`sfumato evaluate` of forecasts: CRPS, error of the mean and spread against skill, by lead, beside two baselines.

All means over cells are weighted by area. Floors: nobody can know what a perfect forecast of this weather would score; beside
each score stands that of persistence (the start, again) and of climatology (what was there at this time of other years).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.grid import moment, said
from sfumato.fields.weather.rollout import Forecasts, drawn
from sfumato.jobs.report import Report
from sfumato.metrics.forecast import crps, energy_score, rank_histogram
from sfumato.metrics.table import Row
from sfumato.training.run import RunError

if TYPE_CHECKING:
    from sfumato.fields.weather.options import ForecastAsk, ForecastMeasure
    from sfumato.jobs.model import Model

BLOCK = 10 * 86400
"""Seconds of the blocks that are drawn anew for intervals: weather a few days apart is not independent."""
DRAWS = 2000
NEAR, MOST_YEARS = 10, 60
"""Days around the date, and members at most, of the climatology."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Of each case: name -> (cases, leads, C), area-weighted means in standard units (squared ones of squares), ``energy``
    (cases, leads); how often the truth had each rank, (leads, C, members + 1); when each case began."""

    by: Mapping[str, np.ndarray]
    ranks: np.ndarray
    begun: np.ndarray
    members: int


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


def score(model: Model, starts: np.ndarray, members: int, leads: int) -> Scores:
    """Forecasts drawn from these starts, and how good they were. Raises RunError for a truth that is not there."""
    from sfumato.training.progress import Watch

    store = model.companions
    forecasts = Forecasts(store, starts, members, leads)
    found: dict[str, list[Tensor]] = {}
    ranks = torch.zeros(leads, len(model.facts.names), members + 1, dtype=torch.float64)
    chance, together = torch.Generator().manual_seed(0), max(1, (model.walk.batch or 16) // members)
    with Watch("forecast", len(starts), unit="starts") as watch:
        for first in range(0, len(starts), together):
            own = range(first * members, min(first + together, len(starts)) * members)
            x = torch.cat([_tensor(part.x) for part in drawn(model, forecasts, own)])
            for i, each in enumerate(x.split(members)):
                one = _case(store, int(starts[first + i]), each.double(), leads)
                for name, value in one.items():
                    found.setdefault(name, []).append(value)
                ranks += _ranks(each.double(), _truth(store, int(starts[first + i]), leads), store, chance)
            watch.show(min(first + together, len(starts)))
    by = {name: torch.stack(values).numpy() for name, values in found.items()}
    return Scores(by, (ranks / len(starts)).numpy(), store.times[starts], members)


def _tensor(x: Any) -> Tensor:
    assert isinstance(x, Tensor)
    return x


def _truth(store: Store, start: int, leads: int) -> Tensor:
    """What came, (leads, C, rows, columns) float64 in standard units. Raises RunError where it is not known."""
    at = places(store.times, store.times[start] + store.facts.step * np.arange(1, leads + 1))
    if (at < 0).any():
        missing = store.times[start] + store.facts.step * (1 + int(np.flatnonzero(at < 0)[0]))
        raise RunError(
            f"what came at {said(missing)}, forecast from {said(store.times[start])}, is not in the data of the run"
        )
    return torch.from_numpy(store.standard(at)).double()


def _case(store: Store, start: int, x: Tensor, leads: int) -> dict[str, Tensor]:
    """The scores of one forecast x (M, leads, C, rows, columns) float64, and of the baselines: (leads, C) each."""
    area = torch.from_numpy(store.area).double()
    share = area / area.sum((1, 2), keepdim=True)
    truth, now = _truth(store, start, leads), torch.from_numpy(store.standard(np.array([start])))[0].double()

    def mean(values: Tensor) -> Tensor:
        return (values * share).sum((2, 3))

    found = {
        "crps": mean(crps(x, truth)), "square": mean((x.mean(0) - truth).square()), "variance": mean(x.var(0)),
        "persistence": mean((now - truth).abs()), "persistence_square": mean((now - truth).square()),
    }  # fmt: skip
    there = [climate(store, int(store.times[start]) + store.facts.step * k) for k in range(1, leads + 1)]
    past = [torch.from_numpy(store.standard(at)).double() for at in there]
    found["climatology"] = mean(torch.stack([crps(own, truth[k]) for k, own in enumerate(past)]))
    found["climatology_square"] = mean(torch.stack([(own.mean(0) - truth[k]).square() for k, own in enumerate(past)]))
    root = (area / area.sum()).sqrt()
    flat = (x * root).flatten(2), (truth * root).flatten(1)
    found["energy"] = energy_score(*flat)
    return found


def _ranks(x: Tensor, truth: Tensor, store: Store, chance: torch.Generator) -> Tensor:
    area = torch.from_numpy(store.area).double()
    return torch.stack([torch.stack([rank_histogram(x[:, k, c], truth[k, c], chance, area[c]) for c in range(x.shape[2])])
                        for k in range(x.shape[1])])  # fmt: skip


def climate(store: Store, seconds: int) -> np.ndarray:
    """The places in time of the climatology of a moment: of the times learned from those at the same time of the day and within
    ten days of the date in any year, at most 60 of them, evenly; where there are fewer than two, of any date."""
    times = store.times[store.times < store.facts.until]
    same = (times - seconds) % 86400 == 0
    same = same if same.sum() >= 2 else np.ones(len(times), dtype=bool)
    year = 31556952
    apart = np.abs((times - seconds + year // 2) % year - year // 2)
    own = np.flatnonzero(same & (apart <= NEAR * 86400))
    own = own if len(own) >= 2 else np.flatnonzero(same)
    return own if len(own) <= MOST_YEARS else own[np.linspace(0, len(own) - 1, MOST_YEARS).round().astype(int)]


# ---- a table with intervals ------------------------------------------------------------------------------------------


def intervals(
    scores: Scores, names: tuple[str, ...], of: Callable[..., np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A function of the means over cases of some scores, with a 90% interval: cases of ten days stand or fall together
    when they are drawn anew (block bootstrap, Kuensch 1989). Each (leads, C)."""
    _, block = np.unique(scores.begun // BLOCK, return_inverse=True)
    count = int(block.max()) + 1
    weight = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=DRAWS).astype(np.float64)
    sizes = np.bincount(block, minlength=count)
    means, whole = [], []
    for name in names:
        own = scores.by[name]
        sums = np.zeros((count, *own.shape[1:]))
        np.add.at(sums, block, own)
        means.append(np.tensordot(weight, sums, 1) / (weight @ sizes).reshape(-1, *[1] * (own.ndim - 1)))
        whole.append(own.mean(0))
    low, high = np.quantile(of(*means), [0.05, 0.95], axis=0)
    return of(*whole), low, high


def evaluate(model: Model, measure: ForecastMeasure, ask: ForecastAsk) -> Report:
    """Forecasts from held-out starts, measured. Raises RunError, DataError, MetricError."""
    starts = cases(model, measure, ask)
    scores = score(model, starts, measure.n, ask.leads)
    facts = model.facts
    factor = math.sqrt((measure.n + 1) / measure.n)
    spread = np.array(facts.spread)
    found = {
        "crps": tuple(each * spread for each in intervals(scores, ("crps",), lambda a: a)),
        "rmse": tuple(each * spread for each in intervals(scores, ("square",), np.sqrt)),
        "spread_skill": intervals(scores, ("variance", "square"), lambda v, s: factor * np.sqrt(v / s)),
        "crps_persistence": tuple(each * spread for each in intervals(scores, ("persistence",), lambda a: a)),
        "crps_climatology": tuple(each * spread for each in intervals(scores, ("climatology",), lambda a: a)),
        "rmse_persistence": tuple(each * spread for each in intervals(scores, ("persistence_square",), np.sqrt)),
        "rmse_climatology": tuple(each * spread for each in intervals(scores, ("climatology_square",), np.sqrt)),
    }
    energy = intervals(scores, ("energy",), lambda a: a)
    rows, n = [], len(starts)
    for k in range(ask.leads):
        hours = f"{(k + 1) * facts.hours:g}h"
        for c, channel in enumerate(facts.channels):
            for name, each in found.items():
                ratio = name == "spread_skill"
                value, low, high = (float(part[k, c]) for part in each)
                kind: Any = "near 1" if ratio else "lower"
                rows.append(
                    Row(f"{name}_{channel.label}_{hours}", value, low, high, 1.0 if ratio else None, kind, n, 0)
                )
        value, low, high = (float(part[k]) for part in energy)
        rows.append(Row(f"energy_{hours}", value, low, high, None, "lower", n, 0))
    notes = (
        f"{n} starts from {said(scores.begun[0])} to {said(scores.begun[-1])}, {measure.n} members; fair CRPS; 90% intervals of "
        "blocks of ten days",
        f"climatology: up to {MOST_YEARS} of the times learned from, within {NEAR} days of the date; persistence: the start",
        "spread/skill is near 1 where the ensemble knows how wrong it is, below 1 where it is too sure",
        *_said(facts, found, ask.leads),
    )
    pictures: dict[str, Any] = {}
    shown = picture_of(model, int(starts[len(starts) // 2]), ask.leads)
    if shown is not None:
        pictures["forecast.png"] = shown
    about = {"ranks": scores.ranks.tolist(), "leads_hours": [(k + 1) * facts.hours for k in range(ask.leads)],
             "channels": [channel.label for channel in facts.channels],
             "forecast.png": "rows: channels; what came, the mean, members, their spread"}  # fmt: skip
    return Report(tuple(rows), notes, pictures, about, table(facts, found, ask.leads))


def _said(facts: Any, found: Mapping[str, Any], leads: int) -> list[str]:
    """Where the forecast is no better than what needs no model."""
    worse = []
    for name in ("persistence", "climatology"):
        bad = [f"{facts.channels[c].label} at {(k + 1) * facts.hours:g} h" for k in range(leads) for c in range(len(facts.names))
               if found["crps"][0][k, c] >= found[f"crps_{name}"][0][k, c]]  # fmt: skip
        if bad:
            worse.append(f"no better than {name}: {', '.join(bad[:6])}{' ...' if len(bad) > 6 else ''}")
    return worse


def table(facts: Any, found: Mapping[str, Any], leads: int) -> str:
    """The scores for people: a line for each lead and channel."""
    head = (
        "lead",
        "",
        "CRPS",
        "90% interval",
        "persistence",
        "climatology",
        "RMSE of the mean",
        "spread/skill",
        "unit",
    )
    lines = [head]
    for k in range(leads):
        for c, channel in enumerate(facts.channels):
            value, low, high = (part[k, c] for part in found["crps"])
            others = (f"{found[name][0][k, c]:.4g}" for name in ("crps_persistence", "crps_climatology", "rmse"))
            lines.append((f"+{(k + 1) * facts.hours:g} h", channel.label, f"{value:.4g}", f"{low:.4g} to {high:.4g}", *others,
                          f"{found['spread_skill'][0][k, c]:.2f}", channel.units))  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def picture_of(model: Model, start: int, leads: int, members: int = 8) -> Any:
    """Maps of a forecast from one start."""
    forecasts = Forecasts(model.companions, np.array([start]), members, leads)
    things = [
        thing
        for part in drawn(model, forecasts, range(members))
        for thing in model.recipe.things(model, forecasts, part)
    ]
    return model.recipe.picture(model, things)
