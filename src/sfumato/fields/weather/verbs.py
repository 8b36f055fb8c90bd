"""The verbs of weather alone: `sfumato weather forecast` and `sfumato weather demo`. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from sfumato.errors import Wrong, check, typed
from sfumato.jobs.flags import Positional, arg
from sfumato.jobs.recipe import say
from sfumato.jobs.walk import Drawing, Walk

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Forecast:
    """Forecast from dates, lead by lead, an ensemble from each: one file, CF NetCDF or zarr, written member by member,
    and a plume beside it. What `sfumato sample` draws, in the words of the trade."""

    run: Positional[Path]
    """Run directory."""
    init: tuple[str, ...] = ("latest",)
    """Dates to forecast from, as 2010-03-01T12:00 (UTC), or latest, the last one of the data."""
    leads: int = 5
    """Steps to forecast, one after the other."""
    n: Annotated[int, arg(aliases=["-n"])] = 16
    """Members of each ensemble."""
    out: Path = Path("forecast.nc")
    """File to write, .nc or .zarr."""
    plume: bool = True
    """Draw the plume of the first date, NAME.nc.plume.png beside NAME.nc."""
    named: Annotated[str, arg(name="walk")] = "usual"
    """A walk that the field knows by name."""
    walk: Annotated[Walk, arg(name="")] = field(default_factory=Walk)
    drawing: Annotated[Drawing, arg(name="")] = field(default_factory=Drawing)

    def __post_init__(self) -> None:
        check(
            self,
            (len(self.init) >= 1, "init", "one date or more"),
            (1 <= self.n <= 100_000, "n", "from 1 to 100000"),
        )

    def __call__(self) -> int:
        from sfumato.fields.weather.options import ForecastAsk
        from sfumato.fields.weather.plume import beside
        from sfumato.jobs.model import load
        from sfumato.jobs.sample import sample

        model, ask = (
            load(self.run, self.walk, self.drawing, self.named, field="weather"),
            ForecastAsk(self.init, self.leads),
        )
        if getattr(model.recipe, "fine", None) is not None:
            raise Wrong(
                f"run = {str(self.run)!r}: must be a run that forecasts, this one downscales: `sfumato sample` draws from it"
            )
        done = sample(model, self.n, ask, self.out)
        print(done[-1])
        if self.plume and (picture := beside(model, ask, self.n, done[-1])) is not None:
            say(f"look at   {picture}")
        say(f"measure   sfumato evaluate {typed(self.run)}")
        return 0


@dataclass(frozen=True)
class Demo:
    """Weather of a made-up planet, learned and forecast: eddies on a beta-plane, ten years of days made in seconds by
    their equation of motion, a training of some minutes, an ensemble forecast, its scores beside all baselines, and
    pictures. Needs no data."""

    out: Path = Path("runs/weather-demo")
    """Run directory; the fields lie beside it, as NetCDF."""
    minutes: float = 2.0
    """Minutes of training."""
    days: int = 3000
    """Days that are made; the last tenth is held out."""
    seed: int = 0
    """Seed of everything."""

    def __post_init__(self) -> None:
        check(
            self,
            (0 < self.minutes < math.inf, "minutes", "above 0"),
            (50 <= self.days <= 100_000, "days", "from 50 to 100000"),
        )

    def __call__(self) -> int:
        from sfumato.fields.weather.demo import demo

        print(demo(self.out, self.minutes, self.days, self.seed))
        return 0
