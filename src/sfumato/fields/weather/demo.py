"""`sfumato weather demo`: from nothing to a scored forecast."""

from __future__ import annotations

from pathlib import Path

from sfumato.errors import typed
from sfumato.fields.weather.options import ForecastAsk, ForecastMeasure
from sfumato.fields.weather.planet import Planet
from sfumato.fields.weather.recipe import Weather
from sfumato.jobs import evaluate, model, train
from sfumato.jobs.recipe import say
from sfumato.jobs.sample import sample
from sfumato.training.options import TrainOptions
from sfumato.training.run import RunError


def demo(out: Path, minutes: float, days: int, seed: int) -> str:
    """Make fields, learn, forecast, measure; returns what was found, and where to look. Raises RunError where a run is
    already."""
    if out.exists():
        raise RunError(f"{out}: there is something already; give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.with_name(out.name + ".nc")
    say(f"planet    {days} days of eddies on a beta-plane, 12 x 32 cells: {data}")
    Planet().write(data, days, seed)
    run = train.train(Weather(data), TrainOptions(minutes=minutes, seed=seed, previews=2), out)
    loaded = model.load(out)
    text = evaluate.evaluate(loaded, ForecastMeasure(n=8, cases=10), ForecastAsk(leads=3))
    file = sample(loaded, 8, ForecastAsk(("latest",), 5), out / "forecast.nc")[-1]
    words = typed(out)
    return (
        f"{text}\nforecast: {file}\nlook at {run.path / 'plume.png'}, {run.path / 'forecast.png'}, {run.path / 'ranks.png'}\n"
        f"your own: sfumato train weather ./fields --minutes 10; more of this one: sfumato weather forecast {words} "
        f"--leads 10 -n 50"
    )
