"""Weather: gridded fields of the past -> an ensemble of the days to come, lead by lead.

What GenCast does for the globe (Price et al. 2023, arXiv 2312.15796), for anybody's region and variables: a step's change, drawn
by a diffusion model that is shown the two frames before it, again and again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfumato.errors import Wrong, check
from sfumato.fields.weather.facts import WeatherFacts
from sfumato.fields.weather.options import FieldNetworkOptions, ForecastAsk, ForecastMeasure, WeatherMethod
from sfumato.jobs.flags import Positional
from sfumato.jobs.making import Making
from sfumato.jobs.recipe import Data, Look, Recipe, Say, usual_batch
from sfumato.jobs.walk import Walk
from sfumato.training.optim import OptimOptions
from sfumato.training.options import TrainOptions

if TYPE_CHECKING:
    from torch import nn

    from sfumato.diffusion import Drawn
    from sfumato.diffusion.generate import Queries
    from sfumato.diffusion.tree import Tree
    from sfumato.fields.weather.data import Wanted
    from sfumato.fields.weather.maps import Maps
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

MEMBERS = 16
FEW = 20_000
"""Steps to learn from that are few."""


@dataclass(frozen=True)
class Weather(Recipe):
    """Ensemble forecasts of fields on a regular latitude-longitude grid, from a folder or file of NetCDF or zarr."""

    Facts: ClassVar[type] = WeatherFacts
    Ask: ClassVar[type] = ForecastAsk
    Measure: ClassVar[type] = ForecastMeasure
    formats: ClassVar[tuple[str, ...]] = (".nc", ".zarr")
    verbs: ClassVar[Mapping[str, str]] = {
        "forecast": "sfumato.fields.weather.verbs:Forecast",
        "demo": "sfumato.fields.weather.verbs:Demo",
    }
    single: ClassVar[bool] = True

    data: Positional[Path]
    """Folder or file of NetCDF (classic or NetCDF-4) or zarr, with variables of (time, latitude, longitude[, level]) by name."""
    variables: tuple[str, ...] | None = None
    """Variables to learn, by their names in the files (none: all on the grid)."""
    levels: tuple[float, ...] | None = None
    """Levels of those that have them, in hPa (none: all)."""
    step: float | None = None
    """Hours of a step (none: those between the times of the data)."""
    until: str | None = None
    """Learn from times before this date alone, as 2008-01-01 (none: all but the last share held out)."""
    held_until: str | None = None
    """Hold out the times from there to before this date (none: all the rest)."""
    held_out: float = 0.1
    """Share of the times, the last ones, held out where --until is not given."""
    mean: Literal["none", "ridge", "kernel"] = "none"
    """What is learned of a step: its whole change, or what a regression on the two frames leaves of it (the pattern of
    CorrDiff): ridge, a linear one, or kernel, of second degree, for up to 8192 times to learn from."""
    fine: Path | None = None
    """Downscaling: a file of fine fields with zeros (rain, in mm or m, on any cells) to be drawn for the coarse ones of
    their day."""
    weights: Path | None = None
    """A finished run of such fields with whose weights to begin: a denoiser's for --method.learn crps."""
    networks: int = 1
    """Networks, trained one after the other, each as long, from other first weights and in another order; the members of a
    forecast are drawn from each in turn. With --mean every second one learns the whole change."""
    network: FieldNetworkOptions = field(default_factory=FieldNetworkOptions)
    """Network."""
    method: WeatherMethod = field(default_factory=WeatherMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        check(
            self,
            (self.step is None or 0 < self.step < math.inf, "step", "above 0 hours"),
            (0 < self.held_out < 1, "held_out", "a share between 0 and 1"),
            (self.variables is None or len(self.variables) > 0, "variables", "one name or more"),
            (self.levels is None or len(self.levels) > 0, "levels", "one or more"),
            (1 <= self.networks <= 64, "networks", "from 1 to 64"),
            (self.fine is None or self.networks == 1, "networks", "1 with --fine, which downscales"),
            (self.fine is None or self.mean == "none", "mean", "none with --fine, which downscales"),
            (
                self.fine is None or self.method.learn == "denoiser",
                "method.learn",
                "denoiser with --fine, which downscales",
            ),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def wanted(self) -> Wanted:
        """What is asked of the data."""
        from sfumato.fields.weather.data import Wanted

        return Wanted(self.variables, self.levels, self.step, self.until, self.held_until, self.held_out, self.mean)

    def examine(self) -> Look:
        from sfumato.fields.weather.files import sources
        from sfumato.fields.weather.grid import said
        from sfumato.fields.weather.source import opened

        found = opened(self.data, self.variables, self.levels)
        lines = (
            f"{len(sources(self.data))} file(s) in {self.data}: {len(found.times):,} times from {said(found.times[0])} to "
            f"{said(found.times[-1])}",
            *(f"there is  {channel.label:<9} {channel.units:<12} {channel.long_name}" for channel in found.channels),
            *(f"a map     {name}" for name in found.maps),
            *(f"not read  {name}" for name in sorted(set(found.left))),
        )
        return Look(lines, self)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Weather:
        from sfumato.fields.weather.data import prepare
        from sfumato.fields.weather.network import take

        if self.weights is not None:
            take(self.weights, run)
        prepare(run, self.data, self.wanted(), tell)
        if self.fine is not None:
            from sfumato.fields.weather.data import Store
            from sfumato.fields.weather.fine import prepare as prepare_fine

            prepare_fine(run, self.fine, Store.of(run, self.facts(run)), tell)
        return self

    def open(self, run: Run) -> Data:
        from sfumato.fields.weather.data import Store

        store = Store.of(run, self.facts(run))
        facts = store.facts
        if self.fine is not None:
            return self._downscaling().opened(run, store)
        return Data(facts, store.windows(facts.first, facts.until), store.windows(facts.until, facts.held_until))

    def companions(self, run: Run, device: Any) -> Any:
        """The prepared fields: what is forecast from, and what came; of downscaling the fine ones, with the coarse."""
        from sfumato.fields.weather.data import Store

        store = Store.of(run, self.facts(run))
        if self.networks > 1:
            from sfumato.fields.weather.several import trained

            store = replace(store, others=trained(self, run, store.facts, device))
        return store if self.fine is None else self._downscaling().FineStore.of(run, store)

    def _downscaling(self) -> Any:
        """What is done where fine fields are drawn."""
        from sfumato.fields.weather import downscaling

        return downscaling

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: WeatherFacts) -> Any:
        if self.fine is not None:
            return self._downscaling().rain()
        return self.method.build(facts.grid)

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.weather.network import FieldNetwork
        from sfumato.fields.weather.rain import RainNetwork

        return {"fields": FieldNetwork, "rain": RainNetwork}

    def build(self, facts: WeatherFacts, device: str) -> nn.Module:
        if self.fine is not None:
            return self._downscaling().build(self.network, facts)
        from sfumato.fields.weather.network import FieldNetwork

        options, (rows, columns) = self.network, facts.grid.shape
        width, depth, multipliers, recompute = options.of(device)
        return FieldNetwork(
            channels=len(facts.names), maps=4 + len(facts.maps) + len(facts.gappy), rows=rows, columns=columns,
            closes=facts.grid.closes, width=width, depth=depth, multipliers=multipliers,
            attention_levels=options.attention_levels, dropout=options.dropout, recompute=recompute,
        )  # fmt: skip

    def task(self, data: Data, network: nn.Module) -> Task:
        """The network is given the maps of the place, which stay in its weights."""
        if self.fine is not None:
            return self._downscaling().task(data, network)
        from sfumato.diffusion.members import ProperScore
        from sfumato.fields.weather.network import BEGIN, begun, maps_of

        made: Any = network
        there, maps = maps_of(data.train.store)  # type: ignore[attr-defined]
        made.there.copy_(there), made.maps.copy_(maps)
        task = super().task(data, network)
        if self.weights is not None:
            begun(data.train.store.folder / BEGIN, network)  # type: ignore[attr-defined]
        return replace(task, criterion=ProperScore(fair=0.95)) if self.method.learn == "crps" else task

    def training(self, data: Data, device: str) -> TrainOptions:
        """Of some years of days each is seen 40 times (65 in downscaling): beyond that a network learns them by heart,
        its ensembles grow too sure, and the held-out loss rises. Of more data as long as all fields do."""
        count, batch = len(data.train), usual_batch(len(data.train), 32 if device == "cpu" else 64)
        passes = 40 if self.fine is None else 65
        steps = max(200, passes * count // batch) if count < FEW else None
        return TrainOptions(steps=steps, batch=batch, optim=OptimOptions(lr=1e-3))

    def fit(self, run: Run, task: Task, training: TrainOptions) -> None:
        """One network, and then the others."""
        super().fit(run, task, training)
        if self.networks > 1:
            from sfumato.fields.weather.several import fit

            fit(self, run, training)

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        """GenCast's: 20 noise levels, fresh noise above 0.75, steps of DPM-Solver++ 2S. In 20 steps these spread every wave of
        a field some 3.5 % too little in variance, short and long ones alike; an inflation of 1.02 gives that back. (Heun's
        method, exact denoiser: 5 % too little at the longest waves, 10 % too much at short ones, thrice and more at the
        shortest.)"""
        super().walk(name)  # which refuses other names
        if self.fine is not None:
            # of Euler's method 12 steps for how much leave half the variance of what all cells have in common
            return Walk(steps=72, solver="amount=ab2", eta=0.0, grid="uniform", batch=512)
        if name == "few":
            return Walk(batch=64)
        if self.method.learn == "crps":
            return Walk(steps=1, solver="euler", eta=0.0, grid="uniform", batch=64)
        churn = "churn:churn=2.5,low=0.75,high=100,inflation=1.02,middle=true"
        low, high = self.method.sigma_low, self.method.sigma_high * 10 / 11  # 80 of 88
        return Walk(steps=20, solver=churn, eta=0.0, grid=f"karras:sigma_min={low:g},sigma_max={high:g}", batch=64)

    def begin(self, process: Any, z: Tree, times: Tree, query: Mapping[str, Tree]) -> tuple[Tree, Tree]:
        """Of downscaling where it rains first, then how much."""
        if self.fine is not None:
            return self._downscaling().begin(process, z, times)
        return super().begin(process, z, times, query)

    def queries(self, model: Model, ask: ForecastAsk, n: int | None) -> Queries:
        if self.fine is not None:
            return self._downscaling().queries(model, ask, MEMBERS if n is None else n)
        from sfumato.fields.weather.rollout import asked

        return asked(model, ask.start, ask.leads, MEMBERS if n is None else n)

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        """Lead by lead, through ``model.draw``."""
        from sfumato.fields.weather.rollout import drawn

        if self.fine is not None:
            return super().draw(model, queries, numbers)
        return drawn(model, queries, numbers)

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Any]:
        if self.fine is not None:
            return self._downscaling().things(model, queries, drawn)
        from sfumato.fields.weather.rollout import arrived
        from sfumato.fields.weather.writing import Forecast

        x: Any = drawn.x
        if x.ndim == 4:  # a step alone, as pictures of a distillation show it
            x = arrived(queries, drawn.numbers, 1, queries.first(drawn.numbers), x.float().cpu())[:, None]
        told = [queries.at(number) for number in drawn.numbers]
        every = (queries.store.restored(each.numpy()) for each in x)
        return [
            Forecast(model.facts, values, int(queries.store.times[at]), member)
            for values, (at, member) in zip(every, told)
        ]

    def save(self, thing: Any, path: Path, making: Making) -> Path:
        if self.fine is not None:
            return self._downscaling().write([thing], [thing.day], [thing.member], path, making)
        from sfumato.fields.weather.writing import write

        return write(thing.facts, [thing], [thing.start], [thing.member], path, making)

    def write(
        self, model: Model, queries: Any, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        """All of them as one file; one drawn again alone into the folder ``out``."""
        from sfumato.fields.weather.writing import write

        if self.fine is not None:
            times, every = queries.fine.store.times, [thing for _, thing in things]
            days, members = [int(times[at]) for at in queries.at], list(range(queries.members))
            if not out.suffix:  # one drawn again alone
                days, members, out = [every[0].day], [every[0].member], out / f"0000{making.suffix or '.nc'}"
            yield self._downscaling().write(every, days, members, out, making)
            return
        facts, store = model.facts, queries.store
        if out.suffix:
            starts = [int(store.times[at]) for at in queries.starts]
            yield write(facts, (each for _, each in things), starts, list(range(queries.members)), out, making)
            return
        for number, thing in things:
            own = making.of(queries, number)
            suffix = making.suffix or ".nc"
            yield write(facts, [thing], [thing.start], [thing.member], out / f"{number:04d}{suffix}", own)

    def bundled(self, model: Model, queries: Any) -> None:
        raise Wrong(
            "forecasts go into one grid of starts and members: leave out --shard, --workers, --bundle and --ray"
        )

    def picture(self, model: Model, things: Sequence[Any], columns: int | None = None) -> Maps | None:
        """Maps of the forecasts from the first start among them."""
        from sfumato.fields.weather.maps import Maps
        from sfumato.jobs.plots import available

        if self.fine is not None:
            return None
        first = [thing for thing in things if thing.start == things[0].start]
        return Maps(model.companions, first) if first and available() else None

    def measurable(self, model: Model, measure: ForecastMeasure, ask: ForecastAsk) -> None:
        from sfumato.fields.weather.measure import cases

        if self.fine is not None:
            self._downscaling().rows_of(model, measure)
            return
        cases(model, measure, ask)

    def evaluate(self, model: Model, measure: ForecastMeasure, ask: ForecastAsk) -> Report:
        from sfumato.fields.weather.measure import evaluate

        if self.fine is not None:
            return self._downscaling().evaluate(model, measure)
        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            "Forecast: `sfumato sample RUN --start latest --leads 10 -n 50 --out forecast.nc`, CF NetCDF with the names, units",
            "and grid of the data. How good they are, beside persistence and climatology: `sfumato evaluate RUN`.",
        )


RECIPE = Weather
