"""`sfumato series demo`: from nothing to a scored forecast."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from sfumato.errors import typed
from sfumato.fields.series.options import ForecastAsk, SeriesMeasure
from sfumato.fields.series.recipe import Series
from sfumato.fields.series.saving import forecast
from sfumato.fields.series.writing import QUANTILES
from sfumato.jobs import evaluate, model, train
from sfumato.jobs.recipe import say
from sfumato.training.options import TrainOptions
from sfumato.training.run import RunError

DAYS = 1200
BEGIN = np.datetime64("2021-01-01", "D")


def shops(count: int, seed: int, days: int = DAYS) -> np.ndarray:
    """Daily sales of so many shops, (days, count): a week of its own, the year, a level that wanders, and rushes of some days
    that come at random and fade, after which it is quiet: so that days to come depend on each other."""
    chance = np.random.default_rng(seed)
    day = np.arange(days)
    found = np.empty((days, count))
    for shop in range(count):
        week = np.exp(0.3 * chance.standard_normal(7))
        year = 1 + 0.25 * np.sin(2 * np.pi * (day / 365.25 + 0.1 * chance.standard_normal()))
        level, rush = np.cumsum(0.01 * chance.standard_normal(days)), np.zeros(days)
        for at in np.flatnonzero(chance.uniform(size=days) < 0.03):
            size = 0.8 * chance.gamma(2.0) * np.exp(-np.arange(12) / 3.0)
            rush[at : at + 12] += size[: days - at]
            rush[at + 12 : at + 20] -= 0.15
        noise = 0.1 * chance.standard_normal(days)
        found[:, shop] = (
            np.exp(3 + chance.standard_normal()) * week[day % 7] * year * np.exp(level + 0.5 * rush + noise)
        )
    return found


def write(path: Path, values: np.ndarray) -> None:
    """As a wide table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["date", *(f"shop {i + 1}" for i in range(values.shape[1]))])
        for day, row in zip(BEGIN + np.arange(len(values)), values):
            rows.writerow([str(day), *(f"{value:.2f}" for value in row)])


def demo(out: Path, minutes: float, count: int, seed: int) -> str:
    """Make series, learn, forecast, measure; returns what was found, and where to look. Raises RunError where a run is
    already."""
    if out.exists():
        raise RunError(f"{out}: there is something already; give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    data = out.with_name(out.name + ".csv")
    say(f"series    {count} shops, {DAYS} days: {data}")
    write(data, shops(count, seed))
    run = train.train(Series(data), TrainOptions(minutes=minutes, seed=seed, previews=2), out)
    loaded = model.load(out)
    text = evaluate.evaluate(loaded, SeriesMeasure(n=128), ForecastAsk())
    file = out / "forecast.csv"
    for line in forecast(loaded, ForecastAsk(), 128, QUANTILES, file, None, True):
        say(line)
    words = typed(out)
    return (
        f"{text}\nforecast: {file}\nlook at {run.path / 'fan.png'}, {run.path / 'calibration.png'}\n"
        f"your own: sfumato train series sales.csv; more of this one: sfumato series forecast {words} -n 500 --paths paths.csv"
    )
