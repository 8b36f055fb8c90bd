"""Forecasts of weather whose law is known: the rollout, the scores and the baselines give what they must."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sfumato.diffusion import EDM
from sfumato.fields.weather.measure import score
from sfumato.fields.weather.options import ForecastAsk, ForecastMeasure, WeatherMethod
from sfumato.fields.weather.recipe import Weather
from sfumato.fields.weather.rollout import Forecasts, drawn
from sfumato.jobs.model import Model
from tests.fields.weather import worlds
from tests.fields.weather.worlds import CALIBRATED, SPREAD, A


def test_a_forecast_has_the_mean_and_the_spread_of_the_law_at_every_lead(model: Model) -> None:
    members, leads = 256, 3
    store, facts = model.companions, model.facts
    start = store.starts(facts.until, facts.held_until, leads)[7]
    (part,) = drawn(model, Forecasts(store, np.array([start]), members, leads), range(members))
    x = store.restored(part.x)  # (M, leads, C, rows, columns)
    for c, name in enumerate(facts.names):
        first = (np.asarray(store.frames[start, c]) - worlds.MEAN[name]) / SPREAD[name]
        for k in range(1, leads + 1):
            own = (x[:, k - 1, c] - worlds.MEAN[name]) / SPREAD[name]
            mean = A**k * (np.roll(first, k, axis=1) if name == "z" else first)
            deviation = math.sqrt(1 - A ** (2 * k))
            # 48 cells, whose means of 256 members spread by 1/16 of a member's deviation; five times that is far
            assert np.abs(own.mean(0) - mean).max() < 5 * deviation / 16, (name, k)
            share = own.var(0, ddof=1).mean() / deviation**2
            assert abs(share - 1) < 5 * math.sqrt(2 / (members * 48)) + 0.02, (
                name,
                k,
                share,
            )  # and what 60 steps leave


def test_noise_beyond_what_was_there_spreads_an_ensemble_too_far(model: Model) -> None:
    store, facts = model.companions, model.facts
    start = store.starts(facts.until, facts.held_until, 1)[:1]
    told = {}
    for inflation in ("1", "1.05"):
        walked = worlds.knowing(model, steps=20, solver=CALIBRATED.replace("inflation=1,", f"inflation={inflation},"))
        (part,) = drawn(walked, Forecasts(store, start, 256, 1), range(256))
        told[inflation] = float(part.x.var(0).mean())
    assert told["1.05"] > 1.01 * told["1"]


def test_the_scores_are_those_of_the_law(model: Model) -> None:
    store, facts, leads = model.companions, model.facts, 3
    starts = store.starts(facts.until, facts.held_until, leads)[::6]
    found = score(model, starts, 16, leads)
    for c, name in enumerate(facts.names):
        unit = facts.spread[c] / SPREAD[name]  # scores are in units of the spread that was measured
        for k in range(1, leads + 1):
            deviation = math.sqrt(1 - A ** (2 * k))
            got = {
                key: float(value[:, k - 1, c].mean()) * unit
                for key, value in found.by["model"].items()
                if value.ndim == 3
            }
            got |= {name: float(own["crps"][:, k - 1, c].mean()) * unit for name, own in found.by.items()}
            ideal = deviation / math.sqrt(math.pi)  # the CRPS of a Gaussian that is right
            assert got["crps"] == pytest.approx(ideal, rel=0.05), (name, k)
            # what is carried away is, after that, another cell's, and cells do not know each other
            again = math.sqrt(2 * (1 - A**k)) if name == "msl" else math.sqrt(2)
            assert got["persistence"] == pytest.approx(again * math.sqrt(2 / math.pi), rel=0.05), (name, k)
            assert got["climatology"] == pytest.approx(1 / math.sqrt(math.pi), rel=0.1), (name, k)
            # a linear world: the regression errs by what 196 numbers learned from 1200 days cost, and knows that it does
            assert ideal < got["ridge"] < 1.2 * ideal, (name, k)
            ratio = math.sqrt(17 / 16) * math.sqrt(got["variance"] / got["square"])
            assert ratio == pytest.approx(1, abs=0.05), (name, k)
            flat = found.ranks[k - 1, c]
            assert flat.sum() == pytest.approx(1)
            assert np.abs(flat * 17 - 1).max() < 0.35, flat * 17


def test_a_member_is_the_same_in_any_ensemble_and_batch(model: Model) -> None:
    store, facts = model.companions, model.facts
    starts = store.starts(facts.until, facts.held_until, 3)[[3, 11]]
    many, few = Forecasts(store, starts, 8, 3), Forecasts(store, starts[1:], 2, 3)
    whole = {n: x for part in drawn(model, many, range(16)) for n, x in zip(part.numbers, part.x)}
    for batch in (2, 5):
        some = {
            n: x
            for part in drawn(worlds.knowing(model, batch=batch), few, range(2))
            for n, x in zip(part.numbers, part.x)
        }
        for member in (0, 1):
            assert torch.allclose(some[member], whole[8 + member], atol=1e-4)
    # and each lead has a noise of its own: steps would go the same way over and over
    first = whole[8][0] - A * (many.first([8])[0, 0])
    second = whole[8][1] - A * whole[8][0]
    assert abs(float(torch.corrcoef(torch.stack([first[0].flatten(), second[0].flatten()]))[0, 1])) < 0.6


def test_the_report_says_it_in_the_units_of_the_data(model: Model) -> None:
    report = Weather.evaluate(model.recipe, model, ForecastMeasure(n=8, cases=12), ForecastAsk(leads=1))
    rows = {row.metric: row for row in report.rows}
    row = rows["crps_msl_24h"]
    assert row.value == pytest.approx(SPREAD["msl"] * math.sqrt((1 - A**2) / math.pi), rel=0.1)
    assert row.low < row.value < row.high
    assert rows["spread_skill_msl_24h"].floor == 1
    assert report.table is not None
    assert "persistence" in report.table
    assert "forecast.png" in report.pictures


def test_training_times_are_even_on_the_schedule_between_the_two_noises() -> None:
    method = WeatherMethod()
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    t = method.distribution()(u, method.build().schedule)
    assert torch.allclose(method.build().schedule.sigma(t), EDM(0.01, 88.0).sigma(u), rtol=1e-9)


def test_the_loss_is_that_of_edm() -> None:
    process = WeatherMethod().build()
    rng = torch.Generator().manual_seed(0)
    x, z, answer = (torch.randn(5, 2, 3, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    t = torch.rand(5, generator=rng, dtype=torch.float64) * 0.9 + 0.05
    x_t = process.interpolate(x, z, t)
    sigma = process.schedule.sigma(t)[:, None, None, None]
    guess = (
        x_t / (1 + sigma**2) - sigma / (1 + sigma**2).sqrt() * answer
    )  # Karras 2022, eq. 7 for data of spread 1, output -v
    karras = (sigma**2 + 1) / sigma**2 * (guess - x).square()
    assert torch.allclose(process.loss(answer, x, z, t), karras.flatten(1).mean(1), rtol=1e-9)


def test_what_goes_east_in_the_file_goes_east_in_the_run(model: Model) -> None:
    frames = torch.from_numpy(
        np.array(model.companions.frames[:, list(model.facts.names).index("z")], dtype=np.float64)
    )
    off = (frames - worlds.MEAN["z"]) / SPREAD["z"]
    east = float((off[1:] * torch.roll(off[:-1], 1, dims=2)).mean())
    assert east == pytest.approx(A, abs=0.03)
    assert abs(float((off[1:] * torch.roll(off[:-1], -1, dims=2)).mean())) < 0.1
