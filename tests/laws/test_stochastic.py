"""Laws 8 and 9 for stochastic solvers. On normal data they are affine in the start and in every draw: unit impulses
measure mean and variance of what they make exactly, and no test here waits for Monte Carlo but the mixture's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.diffusion.exact import GaussianData, MixtureData
from sfumato.diffusion.grids import uniform
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.sample import sample, trajectory
from sfumato.diffusion.schedule import EDM, VE, VP, Linear, Schedule
from sfumato.diffusion.solvers import Churn, EulerMaruyama, Heun, PredictorCorrector, ancestral, dpmpp_2m, euler
from tests.laws.orders import (
    STOCHASTIC,
    Impulses,
    curve,
    grid,
    mixture,
    moments,
    slope,
    worst_ratio,
)
from tests.laws.weak import weak_curve
from tests.laws.worlds import BETAS, F64, SCHEDULES, normal, scalar

NAMES = tuple(STOCHASTIC)
WORLDS: dict[str, Schedule] = {"vp": VP(), "linear": Linear(), "ve": VE(), "edm": EDM()}
PAIRS = [(name, world) for name in NAMES for world in WORLDS if (name, world) != ("euler_maruyama", "linear")]
# Euler-Maruyama's drift is stiff on exploding schedules: unstable at few steps (error 45 at 8 even steps on EDM, 21 on
# VE, 2.5 on VE in even angles), and order 2 by luck of the even steps in t.
UNEASY = {("euler_maruyama", "ve"), ("euler_maruyama", "edm")}


def test_impulses_see_what_a_large_sample_sees() -> None:
    """The method of measurement itself: against 50,000 real draws."""
    solver, times = Churn(), grid("cosine", VP(), 10)
    mean, std = moments(solver, VP(), times)
    data = GaussianData(torch.linspace(-1, 1, 12, dtype=F64), torch.logspace(-2, np.log10(4), 12, dtype=F64))
    data = GaussianData(data.mean, data.variance, process=Gaussian(VP(), "data"))
    rng: Any = torch.Generator().manual_seed(1)
    drawn = sample(data, torch.randn(50_000, 12, dtype=F64, generator=rng), times, solver, rng)
    assert ((drawn.mean(0) - mean) / std).abs().max() < 0.025
    assert (drawn.std(0) / std - 1).abs().max() < 0.015


# ---- law 8 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "world"), PAIRS)
def test_law_8_weak_order(name: str, world: str) -> None:
    # churn's noise a step is capped below 97 steps
    few, many = (128, 512) if name == "churn" else (64, 256)
    coarse, fine = curve(STOCHASTIC[name], WORLDS[world], "uniform", (few, many))
    assert slope(coarse, fine, many / few) >= STOCHASTIC[name].order - 0.15


FEW = (*range(8, 13), 16, 17, 24, 45)


@pytest.mark.parametrize(("name", "world"), PAIRS)
def test_law_8_error_falls_with_every_step(name: str, world: str) -> None:
    for rule in ("uniform", "auto") if world in ("vp", "linear") else ("cosine",):
        assert worst_ratio(curve(STOCHASTIC[name], WORLDS[world], rule, FEW)) <= 1.1, rule


@pytest.mark.slow
@pytest.mark.parametrize(("name", "world"), PAIRS)
def test_law_8_error_falls_with_every_step_all(name: str, world: str) -> None:
    every = (*range(8, 40), *range(41, 301, 19))
    for rule in ("uniform", "karras", "logsnr") if world in ("vp", "linear") else ("uniform",):
        assert worst_ratio(curve(STOCHASTIC[name], WORLDS[world], rule, every)) <= 1.1, rule


# the half-stochastic 2M remembers: test_weak.py has it on mixtures
MARKOV = [(name, world) for name, world in PAIRS if name != "dpmpp_2m_half" and world in ("vp", "linear")]


@pytest.mark.parametrize(("name", "world"), MARKOV)
def test_law_8_weak_order_on_a_mixture(name: str, world: str) -> None:
    few, many = (128, 512) if name == "churn" else (32, 128)
    coarse, fine = weak_curve(STOCHASTIC[name], WORLDS[world], "uniform", (few, many))
    assert slope(coarse, fine, many / few) >= STOCHASTIC[name].order - 0.15


@pytest.mark.slow
@pytest.mark.parametrize(("name", "world"), MARKOV)
def test_law_8_error_falls_with_every_step_on_a_mixture(name: str, world: str) -> None:
    for rule in ("uniform", "auto"):
        counts = (*range(8, 24), 31, 45, 64, 91)
        assert worst_ratio(weak_curve(STOCHASTIC[name], WORLDS[world], rule, counts)) <= 1.1, rule


@pytest.mark.parametrize("name", NAMES)
def test_few_steps_are_stable_but_for_the_stiff(name: str) -> None:
    for world in ("vp", "ve", "edm"):
        [error] = curve(STOCHASTIC[name], WORLDS[world], "uniform", (8,))
        assert error < 0.5 or (name, world) in UNEASY


def test_euler_maruyama_refuses_pure_noise() -> None:
    with pytest.raises(ValueError, match="cannot start at pure noise"):
        sample(mixture(Linear()), normal(2, 1), uniform(Linear(), 8), EulerMaruyama())


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_a_mixture_converge(name: str) -> None:
    """Mean, deviation and third moment of 1-D mixture data, from even quantiles of noise and streams of fresh noise:
    2^12 samples have a standard error of about 0.016 in the mean."""
    schedule, count = VP(), 2**12
    z = torch.special.ndtri((torch.arange(count, dtype=F64) + 0.5) / count)[:, None]
    data, errors = mixture(schedule), []
    shares, means, deviations = data.weights, data.means[:, 0], data.deviations
    true = [float((shares * means).sum())]
    true.append(float((shares * (means**2 + deviations**2)).sum() - true[0] ** 2) ** 0.5)
    true.append(float((shares * (means**3 + 3 * means * deviations**2)).sum()))
    for n in (16, 64, 256):
        rng: Any = torch.Generator().manual_seed(n)
        x = sample(data, z, grid("cosine", schedule, n), STOCHASTIC[name], rng)
        found = (float(x.mean()), float(x.std()), float((x**3).mean()))
        errors.append(max(abs(a - b) for a, b in zip(found, true, strict=True)))
    assert errors[2] < 0.08
    assert errors[2] < errors[0] + 0.03


# ---- law 9: eta = 1 is DDPM ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "steps"), [("vp", 10), ("vp", 100), ("table", 10), ("table", 1000)])
def test_law_9_eta_1_is_ddpm(name: str, steps: int) -> None:
    """Ho 2020, eq. 6 and 7: the posterior's mean and variance from betas and their products, with the same noise."""
    if name == "table":  # the products by a plain loop
        products = [1.0]
        for beta in BETAS:
            products.append(products[-1] * (1 - beta))
        kept = [products[i * 1000 // steps] for i in range(steps + 1)]
    else:
        times = np.arange(steps + 1) / steps
        kept = list(np.exp(-0.5 * times**2 * (20 - 0.1) - times * 0.1))  # Song 2021, eq. 33, squared
    schedule = SCHEDULES[name]
    data = mixture(schedule)
    states = list(trajectory(data, normal(4, 1), uniform(schedule, steps), ancestral(), Streams(key("ho"), range(4))))
    rng = Streams(key("ho"), range(4))
    for i, (x_t, x_s) in zip(range(steps, 0, -1), pairwise(states), strict=True):
        x = data(x_t, scalar(i / steps)).x
        alpha_t = kept[i] / kept[i - 1]
        beta_t = 1 - alpha_t
        mean = kept[i - 1] ** 0.5 * beta_t / (1 - kept[i]) * x + alpha_t**0.5 * (1 - kept[i - 1]) / (1 - kept[i]) * x_t
        variance = (1 - kept[i - 1]) / (1 - kept[i]) * beta_t
        assert (x_s - mean - variance**0.5 * rng.normal((4, 1), F64)).abs().max() < 2e-11


@pytest.mark.parametrize("world", SCHEDULES)
def test_truth_18_delta_data_has_the_kernel_at_every_step(world: str) -> None:
    """When the guess is always right, eta = 1 (and any eta) makes x_s ~ N(alpha_s x, sigma_s^2), exactly."""
    schedule, steps, x = SCHEDULES[world], 9, 1.7
    one = scalar(1.0)
    data = MixtureData(
        torch.ones(1, dtype=F64), torch.full((1, 1), x, dtype=F64), torch.zeros(1, dtype=F64),
        process=Gaussian(schedule, "data"),
    )  # fmt: skip
    for eta in (1.0, 0.6):
        start = (schedule.alpha(one) * x).repeat(steps + 2, 1)
        start[1] += schedule.sigma(one)
        times = uniform(schedule, steps)
        impulses: Any = Impulses()
        walk = trajectory(data, start / schedule.sigma(one), times, euler(eta), impulses)
        for time, x_s in zip(times, walk, strict=True):
            std = (x_s[1:] - x_s[0]).pow(2).sum().sqrt()
            assert abs(x_s[0, 0] - schedule.alpha(time) * x) < 1e-11
            assert abs(std - schedule.sigma(time)) < 1e-12 * max(1, float(schedule.sigma(time)))


def test_truth_19_variance_is_a_closed_product() -> None:
    """DDIM on N(0, S): each step multiplies x_t by the ratio the guessed endpoints give; no solver in sight."""
    schedule, variance = VP(), 0.3
    data = GaussianData(
        torch.zeros(1, dtype=F64), torch.tensor([variance], dtype=F64), process=Gaussian(schedule, "data")
    )
    times = uniform(schedule, 25)
    product = 1.0
    for t, s in pairwise(times):
        a, b, c, d = (float(f(u)) for u in (t, s) for f in (schedule.alpha, schedule.sigma))
        product *= (c * a * variance + d * b) / (a * a * variance + b * b)
    end = sample(data, torch.ones(1, 1, dtype=F64), times)
    assert float(end) == pytest.approx(product * float(schedule.sigma(scalar(1.0))), rel=1e-12)


# ---- the parts of the stochastic solvers -------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_without_noise_they_are_their_deterministic_selves(world: str) -> None:
    data, z, times = mixture(WORLDS[world]), normal(4, 1), uniform(WORLDS[world], 12)
    rng = Streams(key("none"), range(4))
    assert (sample(data, z, times, Churn(churn=0.0), rng) - sample(data, z, times, Heun())).abs().max() < 1e-11
    still = sample(data, z, times, PredictorCorrector(strength=0.0), rng)
    assert (still - sample(data, z, times)).abs().max() < 1e-11


def test_churn_raises_the_noise_by_its_factor() -> None:
    """On VE, x_t gains noise of variance ((1 + gamma)^2 - 1) sigma_t^2, gamma = churn / n, times the inflation squared."""
    schedule, n = VE(), 20
    t, s = scalar(0.6), scalar(0.55)

    class Blind:
        """Guesses x = 0: on VE a Heun step then scales x_t by sigma_s / sigma_t."""

        process = Gaussian(schedule, "data")

        def __call__(self, x_t: Any, t: Any, s: Any = None) -> Any:
            return self.process.endpoints(torch.zeros_like(x_t), x_t, t)

    gamma, inflation = 4.0 / n, 1.25
    solver = Churn(churn=4.0, inflation=inflation)
    x_s, _ = solver.step(Blind(), torch.zeros(3, 1, dtype=F64), t, s, n, Impulses())  # type: ignore[arg-type]
    sigma_t = schedule.sigma(t)
    added = inflation * ((1 + gamma) ** 2 - 1) ** 0.5 * sigma_t
    assert float(x_s[2]) == pytest.approx(float(added * schedule.sigma(s) / ((1 + gamma) * sigma_t)), rel=1e-9)
    calm = Churn(churn=4.0, inflation=inflation, high=float(sigma_t) * 0.99)
    x_s, _ = calm.step(Blind(), torch.zeros(3, 1, dtype=F64), t, s, n, Impulses())  # type: ignore[arg-type]
    assert x_s.abs().max() == 0


def test_2m_renews_as_much_noise_as_euler() -> None:
    """Where the data is one point the guess stands still, so there is nothing to extrapolate: the walks are the same."""
    data = GaussianData(torch.ones(3, dtype=F64), torch.zeros(3, dtype=F64), process=Gaussian(VP(), "data"))
    for eta in (0.0, 0.5, 1.0):
        walks = []
        for solver in (euler(eta), dpmpp_2m(eta)):
            rng: Any = torch.Generator().manual_seed(5)
            walks.append(torch.stack(list(trajectory(data, normal(4, 3), uniform(VP(), 9), solver, rng))))
        assert (walks[0] - walks[1]).abs().max() < 1e-13
