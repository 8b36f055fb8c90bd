"""The verbs of series alone: `sfumato series forecast`, `fill`, `calibrate` and `demo`. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from sfumato.errors import check, typed
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import Drawing, Walk

if TYPE_CHECKING:
    pass

FORMATS = (".csv", ".parquet")


@dataclass(frozen=True)
class Forecast:
    """Forecast series: a table of quantiles a step, a fan beside it, and all paths where they are asked for, in the names,
    units, zone and calendar of the data."""

    run: Positional[Path]
    """Run directory."""
    after: Path | None = None
    """Forecast other series than those of the run: a file of their past, laid out in the same way."""
    given: Path | None = None
    """A scenario: a table laid out like the data, of which the values after the origins (within the first horizon) are taken as
    known; paths go through them."""
    series: tuple[str, ...] = ()
    """Series to forecast, by name (none: all)."""
    start: Literal["end", "test"] = "end"
    """From the end of each series, or from where its last kept windows begin, whose truth is known."""
    horizon: int | None = None
    """Steps to forecast (none: those of the run); more than those horizon by horizon."""
    n: Annotated[int, arg(aliases=["-n"])] = 256
    """Paths of each series."""
    quantiles: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Quantiles to write."""
    out: Path = Path("forecast.csv")
    """Table of quantiles to write, .csv or .parquet."""
    paths: Path | None = None
    """Table of all paths to write too, .csv or .parquet."""
    fan: bool = True
    """Draw the fan of the first series, NAME.fan.png beside NAME."""
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (self.horizon is None or 1 <= self.horizon <= 100_000, "horizon", "from 1 to 100000"),
            (1 <= self.n <= 100_000, "n", "from 1 to 100000"),
            (
                len(self.quantiles) > 0
                and all(0 < q < 1 for q in self.quantiles)
                and sorted(set(self.quantiles)) == list(self.quantiles),
                "quantiles",
                "rising numbers between 0 and 1",
            ),
            (self.out.suffix.lower() in FORMATS, "out", "a file that ends with .csv or .parquet"),
            (
                self.paths is None or self.paths.suffix.lower() in FORMATS,
                "paths",
                "a file that ends with .csv or .parquet",
            ),
        )

    def __call__(self) -> int:
        from sfumato.fields.series.options import ForecastAsk
        from sfumato.fields.series.saving import forecast
        from sfumato.jobs.model import load

        model = load(self.run, self.walk, self.drawing, self.named, field="series")
        ask = ForecastAsk(self.series, self.start, self.horizon, self.after, self.given)
        for line in forecast(model, ask, self.n, self.quantiles, self.out, self.paths, self.fan):
            say(line)
        print(self.out)
        say(f"measure   sfumato evaluate {typed(self.run)}")
        return 0


@dataclass(frozen=True)
class Fill:
    """Fill the gaps of series: the table again with medians where there were gaps, laid out as it was, and beside it what each
    gap may have held, as quantiles or paths. Values that are there are not touched."""

    run: Positional[Path]
    """Run directory."""
    gaps: Positional[Path]
    """Table with gaps, laid out like the data of the run; that itself, to fill its own."""
    n: Annotated[int, arg(name="n", aliases=["-n"])] = 100
    """Draws of each gap."""
    out: Path = Path("filled.csv")
    """Table to write, .csv or .parquet; NAME.gaps.csv (.parquet) beside NAME holds the quantiles of each gap."""
    paths: Path | None = None
    """Table of all draws to write too, .csv or .parquet."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (1 <= self.n <= 10_000, "n", "from 1 to 10000"),
            (self.out.suffix.lower() in FORMATS, "out", "a file that ends with .csv or .parquet"),
            (
                self.paths is None or self.paths.suffix.lower() in FORMATS,
                "paths",
                "a file that ends with .csv or .parquet",
            ),
        )

    def __call__(self) -> int:
        from sfumato.fields.series.saving import fill
        from sfumato.jobs.model import load

        model = load(self.run, self.walk, self.drawing, field="series")
        for line in fill(model, self.gaps, self.n, self.out, self.paths):
            say(line)
        print(self.out)
        return 0


@dataclass(frozen=True)
class Calibrate:
    """Fit how far paths of a walk are spread, so that 80 % intervals of the windows held out hold 80 % of what came. Done once
    for the usual walk when a run is trained; for another walk, or a flow map, it is done here."""

    run: Positional[Path]
    """Run directory."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)

    def __call__(self) -> int:
        from sfumato.fields.series.spreading import calibrate
        from sfumato.jobs.model import load

        model = load(self.run, self.walk, Drawing(), field="series")
        print(f"paths are spread by {calibrate(model):.3f}")
        return 0


@dataclass(frozen=True)
class Demo:
    """Made-up series, learned and forecast: shops with weeks, years, holidays and rushes, made in a second; a training of a
    minute, its scores beside all bars, a forecast and pictures. Needs no data."""

    out: Path = Path("runs/series-demo")
    """Run directory; the series lie beside it, as CSV."""
    minutes: float = 1.0
    """Minutes of training."""
    count: int = 60
    """Series that are made."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.minutes < math.inf, "minutes", "above 0"),
            (2 <= self.count <= 100_000, "count", "from 2 to 100000"),
        )

    def __call__(self) -> int:
        from sfumato.fields.series.demo import demo

        print(demo(self.out, self.minutes, self.count, self.seed))
        return 0
