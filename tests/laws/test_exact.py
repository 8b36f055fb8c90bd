"""The closed-form denoisers, the teachers of all other tests, against the densities they claim to know."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sfumato.diffusion.exact import Exact, GaussianData, MixtureData, finite_data
from sfumato.diffusion.process import Gaussian
from sfumato.diffusion.schedule import VE, VP, Linear, LogLinear
from tests.laws.worlds import ANSWERS, F64, SCHEDULES, normal, scalar


def gaussian(predicts: str = "data", schedule: object = Linear()) -> GaussianData:
    mean, variance = torch.tensor([0.5, -1.0], dtype=F64), torch.tensor([0.3, 2.0], dtype=F64)
    return GaussianData(mean, variance, process=Gaussian(schedule, predicts))  # type: ignore[arg-type]


def mixture(predicts: str = "data", schedule: object = Linear()) -> MixtureData:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.2, -1.5]], dtype=F64)
    weights, deviations = torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.3, 0.1, 0.6], dtype=F64)
    return MixtureData(weights, means, deviations, process=Gaussian(schedule, predicts))  # type: ignore[arg-type]


def solid(predicts: str = "data", schedule: object = Linear()) -> MixtureData:
    """In three dimensions, where the densities' normalisation is another."""
    flat = mixture(predicts, schedule)
    means = torch.cat([flat.means, torch.tensor([[0.3], [-0.2], [1.0]], dtype=F64)], 1)
    return MixtureData(flat.weights, means, flat.deviations, process=flat.process)


def log_density(data: Exact, x_t: Tensor, t: Tensor) -> Tensor:
    """log p(x_t) from torch.distributions."""
    alpha, sigma = data.process.schedule.alpha(t), data.process.schedule.sigma(t)
    if isinstance(data, GaussianData):
        std = (alpha**2 * data.variance + sigma**2).sqrt()
        return torch.distributions.Normal(alpha * data.mean, std).log_prob(x_t).sum(-1)
    assert isinstance(data, MixtureData)
    std = (alpha**2 * data.deviations**2 + sigma**2).sqrt()[:, None].expand_as(data.means)
    parts = torch.distributions.Independent(torch.distributions.Normal(alpha * data.means, std), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(data.weights), parts).log_prob(x_t)


@pytest.mark.parametrize("make", [gaussian, mixture, solid])
@pytest.mark.parametrize("predicts", ANSWERS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(time=st.floats(0.03, 0.97), name=st.sampled_from([Linear(), VP(), VE(), LogLinear()]))
def test_truth_10_tweedie(make: type, predicts: str, time: float, name: object) -> None:
    """The score, -z / sigma, is the gradient of the exact log density of x_t."""
    data, t = make(predicts, name), scalar(time)
    x_t = (2 * normal(6, 3 if make is solid else 2) * data.process.schedule.hypot(t)).requires_grad_()
    (score,) = torch.autograd.grad(log_density(data, x_t, t).sum(), x_t)
    ends = data(x_t.detach(), t)
    sigma = data.process.schedule.sigma(t)
    assert (ends.z + sigma * score).abs().max() < 1e-8 * max(1, float(ends.z.abs().max()))
    x = (x_t + sigma**2 * score) / data.process.schedule.alpha(t)
    assert (ends.x - x).abs().max() < 1e-9 * max(1.0, float(x.detach().abs().max()))


@pytest.mark.parametrize("make", [gaussian, mixture])
@pytest.mark.parametrize("time", [0.2, 0.5, 0.9])
def test_truth_11_second_order_tweedie(make: type, time: float) -> None:
    """sigma^2 / alpha times the Jacobian of E[x | x_t] is the posterior covariance, by brute-force integration."""
    data, t = make(), scalar(time)
    x_t = torch.tensor([[0.2, -0.1]], dtype=F64)
    alpha, sigma = data.process.schedule.alpha(t), data.process.schedule.sigma(t)
    jacobian = torch.autograd.functional.jacobian(lambda y: data(y, t).x[0], x_t)[:, 0]
    axis = torch.linspace(-13, 13, 801, dtype=F64)
    points = torch.cartesian_prod(axis, axis)
    clean = log_density(data, points, scalar(0.0))
    share = torch.softmax(clean - ((x_t - alpha * points) ** 2).sum(1) / (2 * sigma**2), 0)
    mean = (share[:, None] * points).sum(0)
    covariance = (share[:, None, None] * (points - mean)[:, :, None] * (points - mean)[:, None]).sum(0)
    assert (data(x_t, t).x[0] - mean).abs().max() < 1e-9
    assert (sigma**2 / alpha * jacobian - covariance).abs().max() < 1e-9


def test_truth_12_irreducible_flow_matching_loss() -> None:
    """The least possible velocity loss on N(mu, S) is S / ((1 - t)^2 S + t^2); the exact denoiser reaches it."""
    data = gaussian("velocity")
    x = data.mean + data.variance.sqrt() * normal(400_000, 2, seed=1)
    z = normal(400_000, 2, seed=2)
    for time in (0.1, 0.5, 0.9):
        t = scalar(time)
        x_t = data.process.interpolate(x, z, t)
        answer = data.process.target(*data(x_t, t), t)
        least = data.variance / ((1 - time) ** 2 * data.variance + time**2)
        assert ((answer - (z - x)) ** 2).mean(0) / least == pytest.approx(1, abs=0.015)
        assert data.process.loss(answer, x, z, t).mean() == pytest.approx(float(least.mean()), rel=0.015)


def test_truth_9_finite_data_is_a_softmax_over_the_points() -> None:
    points = normal(7, 3)
    data = finite_data(points, process=Gaussian(Linear(), "data"))
    t, x_t = scalar(0.4), normal(5, 3, seed=3)
    wanted = []
    for row in x_t:  # plain loop
        logits = torch.stack([-((row - 0.6 * point) ** 2).sum() / (2 * 0.4**2) for point in points])
        wanted.append((torch.softmax(logits, 0)[:, None] * points).sum(0))
    assert (data(x_t, t).x - torch.stack(wanted)).abs().max() < 1e-13
    # near the data the nearest point is the answer
    near = data(0.999 * points + 0.001 * normal(7, 3, seed=4), scalar(0.001)).x
    assert (near - points).abs().max() < 1e-12


def test_one_part_is_a_gaussian() -> None:
    single = MixtureData(
        torch.ones(1, dtype=F64), torch.tensor([[0.5, -1.0]], dtype=F64), torch.tensor([0.7], dtype=F64)
    )
    same = GaussianData(single.means[0], torch.full((2,), 0.49, dtype=F64))
    for t in (scalar(0.3), torch.rand(6, dtype=F64, generator=torch.Generator().manual_seed(1))):
        one, two = single(normal(6, 2), t), same(normal(6, 2), t)
        assert (one.x - two.x).abs().max() < 1e-13
        assert (one.z - two.z).abs().max() < 1e-12


@pytest.mark.parametrize("make", [gaussian, mixture])
def test_a_time_per_sample_is_each_sample_alone(make: type) -> None:
    data, x_t = make(), normal(4, 2)
    t = torch.tensor([0.9, 0.2, 0.5, 0.01], dtype=F64)
    whole = data(x_t, t)
    for i in range(4):
        alone = data(x_t[i : i + 1], t[i])
        assert (whole.x[i] - alone.x[0]).abs().max() < 1e-13
        assert (whole.z[i] - alone.z[0]).abs().max() < 1e-11


@pytest.mark.parametrize("name", SCHEDULES)
def test_guesses_explain_x_t(name: str) -> None:
    data = mixture("v", SCHEDULES[name])
    for time in (1.0, 0.5, 0.01):
        x_t = normal(5, 2)
        ends = data(x_t, scalar(time))
        assert (data.process.interpolate(*ends, scalar(time)) - x_t).abs().max() < 1e-13 * math.sqrt(1 / time)
