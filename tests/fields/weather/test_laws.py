"""A world whose cells and channels move each other, x' = A x + e, e ~ N(0, Q): rollout, walk and learning against its
closed form."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.diffusion import Denoiser
from sfumato.fields.weather.options import LOWEST, WeatherMethod
from sfumato.fields.weather.recipe import Weather
from sfumato.fields.weather.rollout import Forecasts, Step, arrived, drawn
from sfumato.jobs.model import Model
from sfumato.jobs.walk import Walk, grid_of, solver_of
from tests.fields.weather import worlds

MEMBERS = 512


def knowing(model: Model, inflation: float, steps: int) -> Model:
    """The model with the exact denoiser of that world."""
    network = worlds.Linear(model.facts, *worlds.lawful(model.facts))
    solver = worlds.CALIBRATED.replace("inflation=1,", f"inflation={inflation:g},")
    walk = dataclasses.replace(model.walk, steps=steps, solver=solver, batch=MEMBERS)
    return dataclasses.replace(model, denoiser=Denoiser(network, model.process), walk=walk)


def forecast(model: Model, leads: int) -> tuple[Tensor, Tensor]:
    """The first state (n,) and the states at the leads (M, leads, n), float64 in standard units."""
    store, facts = model.companions, model.facts
    start = store.starts(facts.until, facts.held_until, leads)[3:4]
    forecasts = Forecasts(store, start, MEMBERS, leads)
    (part,) = drawn(model, forecasts, range(MEMBERS))
    return forecasts.first([0])[0, 0].double().flatten(), part.x.double().flatten(2)


def walked(power: Tensor, sigmas: list[float], inflation: float) -> Tensor:
    """The variance that a churned walk of DPM-Solver++ 2S leaves of Gaussian numbers of variance ``power``, by a recursion of
    scalars (every step is linear in x there), begun at sigmas[0] times normal noise."""
    gamma, value = min(2.5 / (len(sigmas) - 1), math.sqrt(2) - 1), torch.full_like(power, sigmas[0] ** 2)
    for here, there in pairwise(sigmas):
        up = here
        if 0.75 <= here <= 100 and here * (1 + gamma) <= sigmas[0]:
            up = here * (1 + gamma)
            value = value + inflation**2 * (up**2 - here**2)
        middle, ending = math.sqrt(up * there), there <= LOWEST * 1.01
        first = power / (power + up**2)
        half = middle / up + (1 - middle / up) * first
        guess = first if ending else half * power / (power + middle**2)
        value = value * (there / up + (1 - there / up) * guess) ** 2
    return value


def test_the_usual_walk_spreads_waves_of_every_size_as_far_as_it_should() -> None:
    """Fields are smooth: their waves have variances from 50 times that of a cell down to a millionth. Those above a tenth within
    1 %, down to a hundredth within 3 %; those that are next to nothing are never made rougher. Heun's steps, as many, are
    wrong at both ends."""
    process = WeatherMethod().build()

    def spread(walk: Walk, power: Tensor) -> Tensor:
        times = grid_of(walk, None)(process.schedule, walk.steps or 1)
        return worlds.spread_by(process, solver_of(walk, process, {}), times, power)

    usual = Weather(Path("any")).walk()
    power = torch.logspace(math.log10(50), -2, 30, dtype=torch.float64)
    found = spread(usual, power)
    assert float((found[power > 0.1] - 1).abs().max()) < 0.01
    assert float((found - 1).abs().max()) < 0.03
    fine = torch.logspace(-2, -6, 20, dtype=torch.float64)
    assert float(spread(usual, fine).max()) < 1
    heun = dataclasses.replace(usual, solver=worlds.CALIBRATED.replace("middle=true", "middle=false"))
    assert float(spread(heun, power).max()) > 1.08
    assert float(spread(heun, power).min()) < 0.95
    more = dataclasses.replace(usual, solver=worlds.CALIBRATED, steps=60)
    assert float((spread(more, power[power > 0.1]) - 1).abs().max()) < 0.01  # nothing to give back with more steps


@pytest.mark.parametrize(("inflation", "steps"), [(1.0, 60), (1.05, 20)])
def test_rollout_and_walk_have_the_covariance_of_the_closed_form(model: Model, inflation: float, steps: int) -> None:
    """Mean A^k x and covariance sum_j A^j Q A^j' of the exact law where the walk is exact; with 20 steps and noise
    inflated on purpose that which its own recursion gives."""
    known = knowing(model, inflation, steps)
    a, q = worlds.lawful(model.facts)
    x, found = forecast(known, 2)
    if steps == 20:
        network = known.denoiser.network
        schedule = model.process.schedule
        sigmas = schedule.sigma(known.grid(known.walk)(schedule, steps)).tolist()
        left = (network.turn * walked(network.power, sigmas, inflation)) @ network.turn.T
        scale = network.move.diagonal() / (a.diagonal() - 1)
        wider = left / scale[:, None] / scale
        assert float(wider.trace()) > 1.02 * float(q.trace())  # too far, by an amount that is known
        q = wider
    for k, covariance in ((1, q), (2, q + a @ q @ a.T)):
        own = found[:, k - 1]
        mean = torch.linalg.matrix_power(a, k) @ x
        deviation = covariance.diagonal().sqrt()
        assert float(((own.mean(0) - mean).abs() / deviation).max()) < 5 / math.sqrt(MEMBERS) + 0.01, k
        unit = torch.cov(own.T) / deviation[:, None] / deviation
        wanted = covariance / deviation[:, None] / deviation
        # 9216 entries that each err by 1 / sqrt(MEMBERS) and more on the diagonal, and what 60 steps leave
        assert float((unit - wanted).abs().max()) < 5.5 * math.sqrt(2 / MEMBERS) + 0.01, k
        assert float((unit - wanted).square().mean().sqrt()) < 1.3 / math.sqrt(MEMBERS), k


def test_a_linear_network_learns_down_to_the_irreducible_loss_and_no_further() -> None:
    """The best linear answer to (shown, state), fitted to the method's own targets, loses on fresh days what the exact
    denoiser does: nobody can lose less, and it comes within 2 %."""
    process = WeatherMethod().build()
    rng = torch.Generator().manual_seed(0)
    n, count = 6, 40_000
    a = 0.5 * torch.randn(n, n, generator=rng, dtype=torch.float64) / math.sqrt(n)
    half = torch.randn(n, n, generator=rng, dtype=torch.float64) / math.sqrt(n)
    q = half @ half.T + 0.05 * torch.eye(n, dtype=torch.float64)

    def days() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        state, z = (torch.randn(count, n, generator=rng, dtype=torch.float64) for _ in range(2))
        e = torch.randn(count, n, generator=rng, dtype=torch.float64) @ torch.linalg.cholesky(q).T
        x = state @ a.T + e
        return x, z, state, process.interpolate(x, z, t)

    for sigma in (0.1, 1.0, 10.0):
        t = process.schedule.at_angle(torch.atan(torch.tensor(sigma, dtype=torch.float64))).expand(count)
        x, z, state, x_t = days()
        seen = torch.cat((process.precondition(x_t, t)[0], state), 1)
        weights = torch.linalg.lstsq(seen, process.target(x, z, t)).solution
        x, z, state, x_t = days()
        answer = torch.cat((process.precondition(x_t, t)[0], state), 1) @ weights
        learned = float(process.loss(answer, x, z, t).mean())
        gain = q @ torch.linalg.inv(q + sigma**2 * torch.eye(n, dtype=torch.float64))
        guess = state @ a.T + (x_t - state @ a.T) @ gain.T
        exact = float(process.loss(process.target(guess, (x_t - guess) / sigma, t), x, z, t).mean())
        # D errs by q sigma^2 / (q + sigma^2) in each direction, and the loss in v weighs that by 1 + 1 / sigma^2
        power = torch.linalg.eigvalsh(q)
        irreducible = float((power * sigma**2 / (power + sigma**2)).mean() * (1 + sigma**-2))
        assert exact == pytest.approx(irreducible, rel=0.02), sigma
        assert 0.999 * exact < learned < 1.02 * exact, sigma


def test_a_forecast_gone_on_with_is_the_unbroken_one(model: Model) -> None:
    """Leads 4 and 5 drawn from the states after lead 3 alone: all their randomness is a function of seed, lead, start
    and member."""
    known = knowing(model, 1.0, 6)
    store, facts = model.companions, model.facts
    forecasts = Forecasts(store, store.starts(facts.until, facts.held_until, 5)[8:9], 4, 5)
    numbers = range(4)
    (whole,) = drawn(known, forecasts, numbers)
    state = torch.stack((whole.x[:, 2], whole.x[:, 1]), 1)
    for lead in (4, 5):
        (part,) = known.draw(Step(forecasts, numbers, state, lead), numbers, stream=("lead", lead))
        now = arrived(forecasts, numbers, lead, state, part.x.float())
        assert torch.allclose(now, whole.x[:, lead - 1], atol=1e-5)
        state = torch.stack((now, state[:, 0]), 1)
    assert np.isfinite(whole.x.numpy()).all()
