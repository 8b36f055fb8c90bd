"""What needs no network: the linear bar, analogs, climatology."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sfumato.fields.weather.baselines import Linear, baselines, climate
from sfumato.fields.weather.data import places
from sfumato.jobs.model import Model
from tests.fields.weather.worlds import MEAN, SPREAD, A

DAY = 86400


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
