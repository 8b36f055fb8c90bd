"""Series: tables of past values -> joint paths and quantiles of what comes next; gaps and scenarios by the same weights.

Mean + residual as in CorrDiff (Mardani et al. 2023, arXiv 2309.15214): a cross-fitted ridge says what it expects, its residuals
are whitened over the leads, and a flow-matching model learns what law they have, told the past. Conditional flows for series:
TSFlow (Kollovieh et al. 2025, arXiv 2410.03024); filling by the same model: CSDI (Tashiro et al. 2021, arXiv 2107.03502).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sfumato.errors import Wrong, check
from sfumato.fields.series.facts import SeriesFacts
from sfumato.fields.series.options import ForecastAsk, SeriesMeasure, SeriesMethod, SeriesNetworkOptions
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
    from sfumato.fields.series.data import Wanted
    from sfumato.fields.series.fan import Fan
    from sfumato.jobs.model import Model
    from sfumato.jobs.report import Report
    from sfumato.training.objective import Task
    from sfumato.training.run import Run

PATHS = 100
BATCH = 512
SPREAD = "spread.json"


@dataclass(frozen=True)
class Series(Recipe):
    """Forecasts of time series as joint paths and quantiles, from a CSV, parquet or JSON table of them."""

    Facts: ClassVar[type] = SeriesFacts
    Ask: ClassVar[type] = ForecastAsk
    Measure: ClassVar[type] = SeriesMeasure
    formats: ClassVar[tuple[str, ...]] = (".csv", ".parquet")
    tunable: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = (SPREAD, "cache/base.npz")
    verbs: ClassVar[Mapping[str, str]] = {
        "forecast": "sfumato.fields.series.verbs:Forecast",
        "fill": "sfumato.fields.series.verbs:Fill",
        "calibrate": "sfumato.fields.series.verbs:Calibrate",
        "demo": "sfumato.fields.series.verbs:Demo",
    }
    single: ClassVar[bool] = True

    data: Positional[Path]
    """A table of series: .csv, .tsv, .txt (also .gz), .parquet, .jsonl, .npz (values, offsets) or .tsf; a time column and a
    column a series, or a row a value with the series' name."""
    time: str | None = None
    """Column of the times (none: found by its name or its dates)."""
    ids: str | None = None
    """Column that names the series, in a table with a row a value (none: found by its name)."""
    target: tuple[str, ...] | None = None
    """Columns of the values (none: found, or all columns of numbers)."""
    known: tuple[str, ...] = ()
    """Columns of covariates that are known ahead: a holiday, a price. For the future they stand in rows without a value."""
    zone: str = ""
    """Zone of the wall clock that times are written in, as Europe/Berlin, where they do not say."""
    freq: str | None = None
    """The step, as h, 15min, D, B, W, M, Q, Y (none: found). Several values within one step are averaged."""
    horizon: int | None = None
    """Steps that are forecast at once (none: the usual for the step: 48 hours, 14 days, 13 weeks, 12 months)."""
    season: int | None = None
    """Steps of a season, 1 for none (none: the usual for the step: 24 of hours, 7 of days, 1 of weeks, 12 of months)."""
    past: int | None = None
    """Steps that are looked back on (none: seven seasons, of long series fourteen, at most 336; 52 weeks; 60 of other steps
    without a season)."""
    scale: Literal["auto", "mean", "last"] = "auto"
    """Units of a window: mean and deviation of its past, or its last value and the size of a step. auto: last where there is
    no season."""
    own: Literal["auto", "yes", "no"] = "auto"
    """Divide what is learned by the series' own past error, too. auto: where there are few series (below 40)."""
    test: int = 1
    """Windows of a horizon at the end of each series that nothing is learned from, for `sfumato evaluate`."""
    network: SeriesNetworkOptions = field(default_factory=SeriesNetworkOptions)
    """Network."""
    method: SeriesMethod = field(default_factory=SeriesMethod)
    """Diffusion method."""

    def __post_init__(self) -> None:
        from sfumato.fields.series.words import parsed_or_wrong

        parsed_or_wrong(self.freq)
        check(
            self,
            (self.horizon is None or 1 <= self.horizon <= 2000, "horizon", "from 1 to 2000"),
            (self.season is None or 1 <= self.season <= 100_000, "season", "1 or more"),
            (self.past is None or 3 <= self.past <= 10_000, "past", "from 3 to 10000"),
            (self.season is None or self.past is None or self.season <= self.past, "season", "at most --past"),
            (0 <= self.test <= 10_000, "test", "from 0 to 10000"),
            (self.target is None or len(self.target) > 0, "target", "one column or more"),
        )

    # ---- data --------------------------------------------------------------------------------------------------------

    def wanted(self) -> Wanted:
        """What is asked of the data."""
        from sfumato.fields.series.data import Wanted
        from sfumato.fields.series.pieces import Named

        named = Named(self.time, self.ids, self.target, self.known, self.zone)
        return Wanted(named, self.freq, self.horizon, self.season, self.past, self.scale, self.own, self.test)

    def examine(self) -> Look:
        from sfumato.fields.series.looking import looked

        return Look(tuple(looked(self.data, self.wanted())), self)

    def prepare(self, run: Run, tell: Say, base: Any = None) -> Series:
        from sfumato.fields.series.data import prepare, prepare_further

        if base is None:
            prepare(run, self.data, self.wanted(), tell)
        else:
            prepare_further(run, self.data, base, tell)
        return self

    def open(self, run: Run) -> Data:
        from sfumato.fields.series.data import Store
        from sfumato.fields.series.spreading import base_of
        from sfumato.fields.series.windowing import windows

        facts = self.facts(run)
        store, base = Store.read(run, facts), base_of(run, facts)
        learn, held = store.parts()
        return Data(facts, windows(base, store.tracks, learn), windows(base, store.tracks, held, 1))

    def companions(self, run: Run, device: Any) -> Any:
        """The series, what was fitted to them, and how far paths are spread."""
        from sfumato.fields.series.data import Store
        from sfumato.fields.series.forecasting import Companions
        from sfumato.fields.series.spreading import base_of, spread_of

        facts = self.facts(run)
        return Companions(Store.read(run, facts), base_of(run, facts), spread_of(run))

    # ---- network -----------------------------------------------------------------------------------------------------

    def process(self, facts: SeriesFacts) -> Any:
        return self.method.build()

    def kinds(self) -> Mapping[str, type[nn.Module]]:
        from sfumato.fields.series.network import SeriesNetwork

        return {"series": SeriesNetwork}

    def build(self, facts: SeriesFacts, device: str) -> nn.Module:
        from sfumato.fields.series.network import SeriesNetwork

        width, depth = self.network.of(device)
        leads = facts.horizon
        told = facts.past + 4 * leads + 3 + facts.clock + leads * len(facts.known)
        return SeriesNetwork(leads=leads, told=told, width=width, depth=depth, dropout=self.network.dropout)

    def task(self, data: Data, network: nn.Module) -> Task:
        task = super().task(data, network)
        if self.method.learn == "crps":
            from sfumato.diffusion.members import ProperScore

            return replace(task, criterion=ProperScore(whole=0.5))
        return task

    def training(self, data: Data, device: str) -> TrainOptions:
        """A minute or so of a core for some hundred series; less for few series, which a network soon knows by heart."""
        batch = usual_batch(len(data.train), BATCH)
        few = len(data.facts.names) < 40
        steps = max(200, min(5000, (7 if few else 25) * (len(data.train) // 5) // batch))
        decay = 0.1 if few else 0.0
        return TrainOptions(steps=steps, batch=batch, optim=OptimOptions(lr=1e-3, weight_decay=decay))

    def fit(self, run: Run, task: Task, training: TrainOptions) -> None:
        """The network, and then how far its paths must be spread, on the windows held out."""
        super().fit(run, task, training)
        self.trained(run)

    def trained(self, run: Run) -> None:
        """How far paths must be spread, measured."""
        if self.method.learn == "crps":  # whose answers are spread as the scores want them
            return
        from sfumato.fields.series.spreading import calibrate
        from sfumato.jobs.model import load

        calibrate(load(run.path))

    def items(self, model: Model, queries: Any, drawn: Drawn) -> Mapping[str, Any]:
        """Paths as windows of which all leads are there."""
        import torch

        return {**super().items(model, queries, drawn), "weight": torch.ones_like(drawn.x)}

    # ---- samples -----------------------------------------------------------------------------------------------------

    def walk(self, name: str = "usual") -> Walk:
        super().walk(name)  # which refuses other names
        if name == "few":
            return Walk(batch=512)
        if self.method.learn == "crps":
            return Walk(steps=1, solver="euler", eta=0.0, grid="uniform", batch=1024)
        return Walk(steps=16, solver="dpmpp_2m:eta=0.5", grid="auto", batch=1024)

    def queries(self, model: Model, ask: ForecastAsk, n: int | None) -> Queries:
        from sfumato.fields.series.forecasting import asked

        return asked(model, ask, PATHS if n is None else n)

    def draw(self, model: Model, queries: Any, numbers: Sequence[int]) -> Iterator[Drawn]:
        from sfumato.fields.series.forecasting import drawn

        return drawn(model, queries, numbers)

    def things(self, model: Model, queries: Any, drawn: Drawn) -> list[Any]:
        from sfumato.fields.series.forecasting import things

        return things(model, queries, drawn)

    def save(self, thing: Any, path: Path, making: Making) -> Path:
        from sfumato.fields.series.writing import paths_table, write_table

        return write_table(*paths_table(thing.facts, [thing]), path, making)

    def write(
        self, model: Model, queries: Any, things: Iterable[tuple[int, Any]], out: Path, making: Making
    ) -> Iterator[Path]:
        """All of them as one table; one drawn again alone into the folder ``out``."""
        from sfumato.fields.series.writing import paths_table, write_table

        if not out.suffix:
            yield from super().write(model, queries, things, out, making)
            return
        paths = [thing for _, thing in things]
        yield write_table(*paths_table(queries.facts, paths), out, making)

    def bundled(self, model: Model, queries: Any) -> None:
        if queries.facts.kind == "wide":
            raise Wrong(
                "series that stand side by side are drawn as a whole: leave out --shard, --workers, --bundle and --ray"
            )

    def picture(self, model: Model, things: Sequence[Any], columns: int | None = None) -> Fan | None:
        """Fans of the first series among them."""
        from sfumato.fields.series.fan import Fan
        from sfumato.jobs.plots import available

        return Fan(model.companions.store, things) if things and available() else None

    def measurable(self, model: Model, measure: SeriesMeasure, ask: ForecastAsk) -> None:
        from sfumato.fields.series.measure import cases

        cases(model, measure, ask)

    def evaluate(self, model: Model, measure: SeriesMeasure, ask: ForecastAsk) -> Report:
        from sfumato.fields.series.report import evaluate

        return evaluate(model, measure, ask)

    def usage(self) -> Iterable[str]:
        return (
            "Forecast: `sfumato series forecast RUN --out forecast.csv` (quantiles, a fan beside it; `--paths "
            "paths.parquet`), in the",
            "names, units and calendar of the data; other series of the same kind: `sfumato series forecast RUN "
            "--after past.csv`.",
            "Gaps: `sfumato series fill RUN gaps.csv --out filled.csv`.",
            "How good it is, beside seasonal naive and ridges: `sfumato evaluate RUN`.",
        )


RECIPE = Series
