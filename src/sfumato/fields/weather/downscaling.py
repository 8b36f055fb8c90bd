"""Downscaling: what the recipe does where fine fields are to be drawn for coarse ones (``--fine``), and how it is measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from sfumato.errors import Wrong
from sfumato.fields.weather.baselines import ALIKE, climate
from sfumato.fields.weather.data import Store, places
from sfumato.fields.weather.fine import FineStore, prepare
from sfumato.fields.weather.grid import moment, said
from sfumato.fields.weather.rain import RainNetwork, RainTimes, cascade, rain
from sfumato.fields.weather.writing import sink
from sfumato.jobs.making import KEY, Making
from sfumato.jobs.recipe import Data
from sfumato.jobs.report import Report
from sfumato.metrics.forecast import crps
from sfumato.metrics.intervals import mean_interval
from sfumato.metrics.table import Row
from sfumato.training.objective import Task
from sfumato.training.run import Run, RunError

if TYPE_CHECKING:
    from sfumato.diffusion.tree import Tree
    from sfumato.fields.weather.facts import WeatherFacts
    from sfumato.fields.weather.options import FieldNetworkOptions, ForecastAsk, ForecastMeasure
    from sfumato.jobs.model import Model

__all__ = ["prepare"]
WET = 1.0
"""mm from which a cell-day counts as rainy in the report."""


@dataclass(frozen=True, eq=False)
class Rain:
    """A sample: mm of the cells that have values, of a day (seconds since 1970), by its number."""

    fine: FineStore
    values: np.ndarray
    day: int
    member: int


@dataclass(frozen=True, eq=False)
class Days:
    """``members`` draws for each of some days, rows of a :class:`FineStore` or places in the time of the coarse fields."""

    fine: FineStore
    at: np.ndarray
    members: int
    buckets: None = None

    def __len__(self) -> int:
        return len(self.at) * self.members

    def told(self, number: int) -> tuple[int, int]:
        """The place of its day in time, and the number of the draw."""
        return int(self.at[number // self.members]), number % self.members

    def name(self, number: int) -> tuple[str, int]:
        place, member = self.told(number)
        return said(self.fine.store.times[place]), member

    def batch(self, numbers: Sequence[int]) -> dict[str, Tree]:
        """Blanks, and the coarse weather of their days."""
        at = np.array([self.told(number)[0] for number in numbers])
        blank = (len(numbers), self.fine.cells)
        x = {"wet": torch.zeros(blank, dtype=torch.int64), "amount": torch.zeros(blank)}
        return {"x": x, **{name: torch.from_numpy(value) for name, value in self.fine.told(at).items()}}


def opened(run: Run, store: Store) -> Data:
    """The two parts of the days."""
    fine, facts = FineStore.of(run, store), store.facts
    return Data(facts, fine.split(facts.first, facts.until), fine.split(facts.until, facts.held_until))


def build(options: FieldNetworkOptions, facts: WeatherFacts) -> nn.Module:
    """The network."""
    return RainNetwork(
        cells=facts.fine_cells, coarse=facts.fine_coarse, width=options.width or 256, depth=options.depth or 3,
        dropout=options.dropout, jitter=options.jitter,
    )  # fmt: skip


def task(data: Data, network: nn.Module) -> Task:
    """What is trained."""
    return Task(network, rain(), data.train, data.held_out, times=RainTimes())


def begin(process: Any, z: Tree, times: Tensor) -> tuple[Tree, Any]:
    """Where it rains first, then how much."""
    return process.start(z), cascade(times)


def queries(model: Model, ask: ForecastAsk, n: int) -> Days:
    """The days that somebody asks for: by default the last one held out. Raises Wrong."""
    fine: FineStore = model.companions
    store, facts = fine.store, model.facts
    if n < 1:
        raise Wrong(f"n = {n}: must be at least 1")
    if not ask.start:
        held = fine.split(facts.until, facts.held_until)
        return Days(fine, fine.at[held.rows[-1:]], n)
    chosen = []
    for text in ask.start:
        seconds = int(store.times[fine.at[-1]]) if text == "latest" else moment("start", text)
        near = places(store.times, np.array([seconds + k * facts.step for k in (-1, 0, 1)]))
        if (near < 0).any():
            raise Wrong(f"start = {text!r}: the coarse fields of that time, a step before and a step after are needed; "
                        "those of the run "
                        f"go from {said(store.times[0])} to {said(store.times[-1])}")  # fmt: skip
        chosen.append(int(near[1]))
    return Days(fine, np.array(chosen), n)


def things(model: Model, days: Days, drawn: Any) -> list[Rain]:
    """One a sample, in mm."""
    fine = days.fine
    values = fine.restored({name: each.cpu().numpy() for name, each in drawn.x.items()})
    told = [days.told(number) for number in drawn.numbers]
    return [Rain(fine, own, int(fine.store.times[at]), member) for own, (at, member) in zip(values, told)]


def write(made: Iterable[Rain], days: Sequence[int], members: Sequence[int], path: Path, making: Making) -> Path:
    """Draws into one file: (time, member, ...axes of the fine file)."""
    kept = list(made)
    fine, facts = kept[0].fine, kept[0].fine.store.facts
    sizes = dict(zip(facts.fine_axes, facts.fine_shape))
    since = {"units": "seconds since 1970-01-01 00:00:00", "calendar": "proleptic_gregorian"}
    with sink(path) as file:
        file.sized({"time": len(days), "member": len(members), **sizes})
        file.put("time", ("time",), np.array(days, dtype=np.int64), {"standard_name": "time", **since})
        file.put(
            "member", ("member",), np.array(members, dtype=np.int32), {"standard_name": "realization", "units": "1"}
        )
        for axis, values in zip(facts.fine_axes, fine.coordinates):
            file.put(axis, (axis,), values, {})
        made_ = file.empty(facts.fine, ("time", "member", *sizes), (1, 1, *sizes.values()), {"units": "mm"})
        for thing in kept:
            whole = np.full(int(np.prod(facts.fine_shape)), np.nan, dtype=np.float32)
            whole[fine.where] = thing.values
            made_[days.index(thing.day), members.index(thing.member)] = whole.reshape(facts.fine_shape)
        file.described(
            {"Conventions": "CF-1.11", "title": "downscaled ensemble", "source": "sfumato", KEY: making.text()}
        )
    return path


# ---- measured ------------------------------------------------------------------------------------------------------------


def rows_of(model: Model, measure: ForecastMeasure) -> np.ndarray:
    """The days to measure on. Raises RunError."""
    fine, facts = model.companions, model.facts
    since = facts.until if measure.since is None else moment("since", measure.since)
    before = facts.held_until if measure.before is None else moment("before", measure.before)
    rows = fine.split(since, before).rows
    if len(rows) < 2:
        raise RunError(f"{model.run.path}: {len(rows)} day(s) between {said(since)} and {said(before)}; two are needed: "
                       "another --since "
                       "and --before")  # fmt: skip
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(measure.cases, len(rows))).round().astype(int))]


def analogs(fine: FineStore, row: int) -> np.ndarray:
    """The fine fields of the twenty days learned from whose coarse frame was most alike, (20, cells) mm."""
    store = fine.store
    learned = np.flatnonzero(store.times[fine.at] < store.facts.until)
    root = np.sqrt(store.area)
    known = (store.standard(fine.at[learned]) * root).reshape(len(learned), -1)
    now = (store.standard(fine.at[[row]]) * root).reshape(1, -1)
    return fine.values[learned[np.argsort(np.square(known - now).sum(1), kind="stable")[:ALIKE]]]


def climatology(fine: FineStore, row: int) -> np.ndarray:
    """The fine fields of days of other years near the date, mm."""
    at = climate(fine.store, int(fine.store.times[fine.at[row]]))
    own = np.flatnonzero(np.isin(fine.at, at))
    return fine.values[own if len(own) > 1 else np.flatnonzero(fine.store.times[fine.at] < fine.store.facts.until)]


def drawn(model: Model, rows: np.ndarray, members: int) -> np.ndarray:
    """Members for days, (days, M, cells) mm."""
    from sfumato.training.progress import Watch

    fine: FineStore = model.companions
    days = Days(fine, fine.at[rows], members)
    found = np.empty((len(days), fine.cells), dtype=np.float32)
    with Watch("downscale", len(days), unit="fields") as watch:
        done = 0
        for part in model.draw(days, range(len(days))):
            x: Any = part.x
            found[list(part.numbers)] = fine.restored({name: each.cpu().numpy() for name, each in x.items()})
            watch.show(done := done + len(part.numbers))
    return found.reshape(len(rows), members, -1)


def measured(model: Model, rows: np.ndarray, members: int) -> dict[str, Any]:
    """CRPS of each day in mm of the model and the baselines, and what rain is like: shares of dry and rainy cell-days,
    mean, and the greatest of each day."""
    fine: FineStore = model.companions
    truth, made = fine.values[rows], drawn(model, rows, members)
    scores: dict[str, list[float]] = {"model": [], "analogs": [], "climatology": []}
    for place, row in enumerate(rows):
        every = {"model": made[place], "analogs": analogs(fine, int(row)), "climatology": climatology(fine, int(row))}
        for name, x in every.items():
            scores[name].append(float(crps(torch.from_numpy(x), torch.from_numpy(truth[place])).mean()))
    spread = float(
        np.sqrt((members + 1) / members * made.var(1, ddof=1).mean() / np.square(made.mean(1) - truth).mean())
    )
    like = {
        name: {
            "dry": float((x == 0).mean()), "rainy": float((x >= WET).mean()), "mean": float(x.mean()),
            "greatest": float(x.max(-1).mean()), "high": float(np.quantile(x, 0.999)),
            "together": _together(x),
        }
        for name, x in (("drawn", made), ("came", truth))
    }  # fmt: skip
    return {"crps": {name: np.array(each) for name, each in scores.items()}, "like": like, "spread_skill": spread}


def _together(x: np.ndarray) -> float:
    """The mean correlation of two cells."""
    found: Any = np.corrcoef(x.reshape(-1, x.shape[-1])[:4000].T)
    return float(np.nanmean(found[np.triu_indices(x.shape[-1], 1)]))


def evaluate(model: Model, measure: ForecastMeasure) -> Report:
    """Draws for held-out days against what fell, beside analogs and climatology."""
    rows = rows_of(model, measure)
    found = measured(model, rows, measure.n)
    names = {name: "crps" if name == "model" else f"crps_{name}" for name in found["crps"]}
    made = [
        Row(names[name], *mean_interval(torch.from_numpy(each)), None, "lower", len(rows), 0)
        for name, each in found["crps"].items()
    ]
    made.append(
        Row(
            "spread_skill",
            found["spread_skill"],
            found["spread_skill"],
            found["spread_skill"],
            1.0,
            "near 1",
            len(rows),
            0,
        )
    )
    like: Mapping[str, Mapping[str, float]] = found["like"]
    words = {
        "dry": "share of cell-days without rain", "rainy": f"share of {WET:g} mm and more", "mean": "mean (mm)",
        "greatest": "greatest of a day (mm, mean)", "high": "quantile .999 (mm)", "together": "correlation of two cells",
    }  # fmt: skip
    notes = tuple(
        f"{what}: drawn {like['drawn'][name]:.4g}, came {like['came'][name]:.4g}" for name, what in words.items()
    )
    notes += (f"{len(rows)} days, {measure.n} members, CRPS in mm (fair); analogs: the {ALIKE} days learned from whose "
              "coarse fields "
              "were most alike; climatology: days within ten of the date",)  # fmt: skip
    return Report(tuple(made), notes, {}, {"like": like})
