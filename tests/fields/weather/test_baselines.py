"""What needs no network: ridge regression, residuals of days not seen, analogs, climatology."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sfumato.fields.weather.baselines import Linear, baselines, climate
from sfumato.fields.weather.data import places
from sfumato.fields.weather.ridge import Design, blocks, crossed, fits
from sfumato.jobs.model import Model
from tests.fields.weather.worlds import MEAN, SPREAD, A

DAY = 86400


def regressed(count: int, size: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, targets of a linear law, and its weights."""
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(count, size)) + 3, rng.normal(size=(size, 4)) / math.sqrt(size)
    return x, x @ weights + noise * rng.normal(size=(count, 4)) - 7, weights


@pytest.mark.parametrize(("count", "size"), [(400, 20), (15, 40)])
def test_a_penalty_gives_the_minimum_of_the_penalised_error(count: int, size: int) -> None:
    """Whichever side is the longer: at the minimum the gradient is 0, of the errors about their means."""
    x, y, _ = regressed(count, size, 1.0)
    ridge = Design.of(x).fit(y, penalty=2.5)
    off, left = x - x.mean(0), y - ridge(x)
    assert np.abs(left.mean(0)).max() < 1e-4
    assert np.abs(off.T @ left - 2.5 * ridge.weights).max() < 1e-3


def test_cross_validation_finds_what_noise_wants() -> None:
    """Without noise next to no penalty and the law itself; where all is noise so much that nothing is claimed."""
    x, y, weights = regressed(400, 20, 0.0)
    exact = Design.of(x).fit(y)
    assert np.abs(exact.weights - weights).max() < 1e-3
    rng = np.random.default_rng(1)
    nothing = Design.of(x).fit(rng.normal(size=(400, 4)))
    assert np.abs(nothing.weights).max() < 0.02
    few, told, law = regressed(60, 40, 1.5)
    chosen = Design.of(few).fit(told)
    fresh, came, _ = regressed(4000, 40, 0.0, seed=0)
    far = np.random.default_rng(5).normal(size=(4000, 40)) + 3
    del fresh, came
    wrong = [np.square(Design.of(few).fit(told, p)(far) - (far @ law - 7)).mean() for p in (1e-6, chosen.penalty, 1e6)]
    assert wrong[1] < min(wrong[0], wrong[2])


def test_residuals_of_other_years_are_as_large_as_those_of_days_to_come() -> None:
    x, y, law = regressed(160, 60, 1.0)
    ridge = Design.of(x).fit(y, penalty=1.0)
    seen = np.square(y - ridge(x)).mean()
    other = np.square(y - crossed(x, [y], [1.0])[0]).mean()
    far = np.random.default_rng(8).normal(size=(4000, 60)) + 3
    come = np.square(ridge(far) - (far @ law - 7)).mean() + 1.0
    assert seen < 0.75 * come  # what it was fitted to flatters
    assert other == pytest.approx(come, rel=0.2)
    assert blocks(8).tolist() == list(range(8))
    assert np.bincount(blocks(2922)).min() >= 365


def test_what_would_not_fit_is_left_out() -> None:
    assert fits(2922, 862, 429)
    assert not fits(60_000, 84 * 240 * 121 * 2, 84 * 240 * 121)


def test_the_linear_bar_of_a_linear_world_is_its_law(model: Model) -> None:
    """Its mean is A^k x, carried east; members differ by whole fields as far as the law says."""
    store, facts = model.companions, model.facts
    start = int(store.starts(facts.until, facts.held_until, 3)[5])
    linear = Linear.of(store, 3)
    assert linear is not None
    x = store.restored(linear(start, 300))
    for c, name in enumerate(facts.names):
        first = (np.asarray(store.frames[start, c]) - MEAN[name]) / SPREAD[name]
        for k in (1, 3):
            own, deviation = (x[:, k - 1, c] - MEAN[name]) / SPREAD[name], math.sqrt(1 - A ** (2 * k))
            mean = A**k * (np.roll(first, k, axis=1) if name == "z" else first)
            wrong = np.square(own.mean(0) - mean).mean() / deviation**2
            assert wrong < 0.4, (name, k)  # 196 numbers learned from 1200 days cost 0.16 at least, later leads more
            assert own.var(0).mean() / deviation**2 == pytest.approx(1.16, abs=0.25), (name, k)  # and residuals know it
    assert np.array_equal(linear(start, 8), linear(start, 8))


def test_baselines_know_nothing_of_what_is_held_out(model: Model) -> None:
    store, facts = model.companions, model.facts
    start = int(store.starts(facts.until, facts.held_until, 2)[9])
    own = baselines(store, 2)
    assert set(own) == {"persistence", "climatology", "analogs", "ridge"}
    now = store.standard(np.array([start]))
    assert np.array_equal(own["persistence"](start, 16), np.repeat(now[:, None], 2, 1))
    some = climate(store, int(store.times[start]) + DAY)
    assert (store.times[some] < facts.until).all()
    apart = (store.times[some] - store.times[start] - DAY + 31556952 // 2) % 31556952 - 31556952 // 2
    assert np.abs(apart).max() <= 10 * DAY
    # each analog is what followed on a day learned from, of those nearest to the start
    analogs = own["analogs"](start, 16)
    learned = store.standard(np.flatnonzero(store.times < facts.until))
    days = [int(np.abs(learned - each[0]).sum((1, 2, 3)).argmin()) for each in analogs]
    assert all(np.array_equal(learned[day], each[0]) for day, each in zip(days, analogs))
    before = learned[places(store.times, store.times[np.array(days)] - DAY)]
    apart = np.square(before - now).mean((1, 2, 3))
    assert apart.max() < np.median(np.square(learned - now).mean((1, 2, 3)))
