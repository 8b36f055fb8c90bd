"""Law 11 and truths 31 to 35: the probability flow's likelihood against densities in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.exact import GaussianData, MixtureData
from sfumato.diffusion.likelihood import bits_per_dimension, dequantised_bits, divergence, log_likelihood
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.schedule import VP, Cosine, Linear, Schedule, Shifted
from tests.laws import orders
from tests.laws.worlds import ANSWERS, F64, normal

MEAN, VARIANCE = torch.tensor([0.5, -1.0, 0.0], dtype=F64), torch.tensor([0.25, 1.0, 2.0], dtype=F64)


def gaussian(schedule: Schedule = Linear(), predicts: str = "velocity", mean: Tensor = MEAN) -> GaussianData:
    return GaussianData(mean, VARIANCE, process=Gaussian(schedule, predicts))  # type: ignore[arg-type]


def exact(x: Tensor, blur: float = 0.0, mean: Tensor = MEAN) -> Tensor:
    return torch.distributions.Normal(mean, (VARIANCE + blur**2).sqrt()).log_prob(x).sum(-1)


X = MEAN + VARIANCE.sqrt() * normal(16, 3, seed=2)


def test_law_11_gaussian_data_to_the_order_of_runge_kutta() -> None:
    """The walk begins at sigma / alpha = 1e-3, so it measures the density blurred by that: at its order, 4."""
    errors = [float((log_likelihood(gaussian(), X, n) - exact(X, 1e-3)).abs().max()) for n in (10, 20, 40)]
    print("largest error of log p at 10, 20, 40 steps:", *(f"{error:.1e}" for error in errors))
    assert errors[2] < 1e-6
    assert min(math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])) > 3.7
    assert (log_likelihood(gaussian(), X, 40) - exact(X)).abs().max() < 1e-4


def test_law_11_begins_where_it_is_told() -> None:
    for smallest in (0.1, 0.01):
        found = log_likelihood(gaussian(), X, 60, smallest=smallest)
        assert (found - exact(X, smallest)).abs().max() < 1e-6


def mixture_density(x: Tensor) -> Tensor:
    weights, means, deviations = (torch.tensor(values, dtype=F64) for values in orders.MIXTURE)
    parts = torch.distributions.Normal(means, deviations)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts).log_prob(x)


def test_truth_32_density_integrates_to_one() -> None:
    x = torch.linspace(-4, 4, 801, dtype=F64)[:, None]
    found = log_likelihood(orders.mixture(Linear()), x, 60)
    assert float(torch.trapezoid(found.exp(), x[:, 0])) == pytest.approx(1, abs=1e-5)
    near = mixture_density(x[:, 0]) > -12
    assert (found - mixture_density(x[:, 0]))[near].abs().max() < 2e-3
    assert (found.exp() - mixture_density(x[:, 0]).exp()).abs().max() < 1e-4


def plane_mixture(schedule: Schedule = Linear()) -> MixtureData:
    """Data whose denoiser's Jacobian is not diagonal."""
    means = torch.tensor([[1.0, 0.8], [-1.0, -0.5]], dtype=F64)
    weights, deviations = torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([0.5, 0.4], dtype=F64)
    return MixtureData(weights, means, deviations, process=Gaussian(schedule, "data"))


def test_truth_32_in_the_plane() -> None:
    axis = torch.linspace(-3.5, 3.5, 71, dtype=F64)
    found = log_likelihood(plane_mixture(), torch.cartesian_prod(axis, axis), 30)
    assert float(found.exp().sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-4)


def test_truth_33_hutchinson_is_exact_for_diagonal_jacobians() -> None:
    rng = torch.Generator().manual_seed(1)
    one = log_likelihood(gaussian(), X, 12, probes=1, rng=rng)
    assert (one - log_likelihood(gaussian(), X, 12)).abs().max() < 1e-12


def test_truth_33_hutchinson_in_mean() -> None:
    x = torch.tensor([[0.1, 0.2]], dtype=F64).expand(3000, 2)
    found = log_likelihood(plane_mixture(), x, 12, probes=1, rng=torch.Generator().manual_seed(1))
    wanted = log_likelihood(plane_mixture(), x[:1], 12)
    assert found.std() > 0.05
    assert abs(found.mean() - wanted) < 4 * found.std() / 3000**0.5
    many = log_likelihood(plane_mixture(), x[:300], 12, probes=16, rng=torch.Generator().manual_seed(2))
    assert float(many.std() / found.std()) == pytest.approx(0.25, rel=0.3)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Shifted(Linear(), 3.0)], ids=["linear", "cosine", "shifted"])
def test_truth_34_any_schedule_and_answer(schedule: Schedule) -> None:
    wanted = log_likelihood(gaussian(Linear(), "data"), X, 12)
    for predicts in ("data", "v", "velocity"):
        assert (log_likelihood(gaussian(schedule, predicts), X, 12) - wanted).abs().max() < 1e-10


def test_truth_34_schedules_that_end_short() -> None:
    """VP leaves alpha = 0.0066 at t = 1, and taking the unit normal for the prior costs that times mean and noise."""
    first = log_likelihood(gaussian(VP(), "data"), X, 20)
    assert (first - exact(X)).abs().max() < 0.03
    for predicts in ANSWERS:
        assert (log_likelihood(gaussian(VP(), predicts), X, 20) - first).abs().max() < 1e-9


class Pictures:
    """Each channel normal with its own mean and variance, on (B, C, H, W)."""

    process = Gaussian(Linear(), "velocity")

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None) -> Endpoints:
        flat = x_t.permute(0, 2, 3, 1).reshape(-1, 3)
        ends = gaussian()(flat, t)
        b, c, h, w = x_t.shape
        return Endpoints(*(end.reshape(b, h, w, c).permute(0, 3, 1, 2) for end in ends))


@pytest.mark.parametrize("probes", [None, 2])
def test_truth_35_any_shape(probes: int | None) -> None:
    x = normal(2, 3, 4, 2, seed=5)
    found = log_likelihood(Pictures(), x, 20, probes=probes)
    assert found.shape == (2,)
    assert (found - exact(x.permute(0, 2, 3, 1)).sum((1, 2))).abs().max() < 1e-3


def test_gradients_flow() -> None:
    x = X.clone().requires_grad_()
    mean = MEAN.clone().requires_grad_()
    found = log_likelihood(gaussian(mean=mean), x, 30, differentiable=True)
    grad_x, grad_mean = torch.autograd.grad(found.sum(), (x, mean))
    wanted_x, wanted_mean = torch.autograd.grad(exact(x, 1e-3, mean).sum(), (x, mean))
    assert (grad_x - wanted_x).abs().max() < 1e-5
    assert (grad_mean - wanted_mean).abs().max() < 1e-5
    assert not log_likelihood(gaussian(mean=mean), X, 4).requires_grad


def test_gradients_flow_through_a_mixture() -> None:
    x = torch.tensor([[0.3, 0.2], [-1.0, 0.5]], dtype=F64, requires_grad=True)
    data = plane_mixture()
    (grad,) = torch.autograd.grad(log_likelihood(data, x, 60, differentiable=True).sum(), x)
    parts = torch.distributions.Independent(
        torch.distributions.Normal(data.means, data.deviations[:, None].expand(2, 2)), 1
    )
    density = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(data.weights), parts)
    (wanted,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    assert (grad - wanted).abs().max() < 1e-4


def test_bits_per_dimension() -> None:
    """Uniform on [0, 1) cut into 256 bins holds 8 bits; scaling the data changes nothing."""
    assert bits_per_dimension(torch.zeros(2), dims=12, bin_width=1 / 256).tolist() == [8.0, 8.0]
    scaled = torch.full((1,), -12 * math.log(2.0))  # uniform on [0, 2)
    assert float(bits_per_dimension(scaled, 12, 2 / 256)) == pytest.approx(8.0)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"probes": 0}])
def test_steps_and_probes_are_counted_from_one(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        log_likelihood(gaussian(), X, **wrong)  # type: ignore[arg-type]


def test_gradients_flow_only_when_asked() -> None:
    """Whatever requires grad; and what is asked for has the same value."""
    x, mean = X.clone().requires_grad_(), MEAN.clone().requires_grad_()
    kept = log_likelihood(gaussian(mean=mean), x, 4, differentiable=True)
    found = log_likelihood(gaussian(mean=mean), x, 4)
    assert kept.requires_grad
    assert not found.requires_grad
    torch.testing.assert_close(found, kept.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("probes", [None, 64])
def test_divergence_of_a_linear_map_is_its_trace(probes: int | None) -> None:
    matrix, y = normal(6, 6, seed=3), normal(5, 2, 3, seed=4).requires_grad_()
    rng = torch.Generator().manual_seed(0)
    signs = None if probes is None else [torch.randn(y.shape, generator=rng, dtype=F64).sign() for _ in range(probes)]
    found = divergence((y.flatten(1) @ matrix.T).reshape(y.shape), y, signs)
    assert found.shape == (5,)
    assert not found.requires_grad
    # the mean over 64 probes of a variable of this deviation
    spread = (matrix + matrix.T).triu(1).norm()
    assert (found - matrix.trace()).abs().max() < (1e-12 if probes is None else 4 * spread / 8)
    assert divergence(y**3, y, signs, keep=True).requires_grad
    for constant in (torch.ones_like(y).detach(), matrix.new_ones(5, 2, 3).requires_grad_()):
        assert (divergence(constant, y, signs) == 0).all()


def binned(width: float, count: int) -> tuple[Tensor, Tensor]:
    """Normal data rounded to the centres of bins, and its true bits per dimension."""
    x = ((MEAN + VARIANCE.sqrt() * normal(count, 3, seed=7)) / width).round() * width
    law = torch.distributions.Normal(MEAN, VARIANCE.sqrt())
    bits = -(law.cdf(x + width / 2) - law.cdf(x - width / 2)).log2().mean(-1)
    return x, bits


def test_dequantised_bits_of_fine_bins_are_the_true_ones() -> None:
    x, wanted = binned(0.01, 8)
    found = dequantised_bits(gaussian(), x, 0.01, rng=Streams(key("bins"), range(8)))
    assert found.shape == (8,)
    assert (found - wanted).abs().max() < 0.02
    assert abs((found - wanted).mean()) < 5e-3
    many = dequantised_bits(gaussian(), x, 0.01, 12, draws=32, rng=Streams(key("bins"), range(8)))
    assert (many - wanted).abs().max() < 3e-3


def test_dequantised_bits_approach_the_true_ones_from_above() -> None:
    """Bins as wide as the data: in mean above for any number of draws, by less the more there are."""
    x, wanted = binned(1.0, 1)
    x = x.expand(1500, 3)
    gaps, errors = [], []
    for draws in (1, 4, 16):
        found = dequantised_bits(gaussian(), x, 1.0, 8, draws=draws, rng=torch.Generator().manual_seed(draws)) - wanted
        gaps.append(float(found.mean()))
        errors.append(float(found.std()) / 1500**0.5)
    print(
        "bits above the true ones with 1, 4, 16 draws:",
        *(f"{g:.4f} +- {e:.4f}" for g, e in zip(gaps, errors, strict=True)),
    )
    assert all(gap > -3 * error for gap, error in zip(gaps, errors, strict=True))
    assert gaps[0] > 2 * gaps[1] > 4 * gaps[2]
    assert gaps[2] < 0.03


def test_dequantised_bits_are_each_samples_own_and_take_probes() -> None:
    x, _ = binned(0.1, 5)
    whole = dequantised_bits(gaussian(), x, 0.1, 6, draws=2, probes=1, rng=Streams(key("bins"), range(5)))
    alone = dequantised_bits(gaussian(), x[3:4], 0.1, 6, draws=2, probes=1, rng=Streams(key("bins"), [3]))
    assert (whole[3:4] - alone).abs().max() < 1e-12


@pytest.mark.parametrize(("width", "draws"), [(0.1, 0), (0.0, 1), (-0.1, 1)])
def test_dequantised_bits_need_draws_and_a_width(width: float, draws: int) -> None:
    with pytest.raises(ValueError, match="draws must be at least 1 and bin_width positive"):
        dequantised_bits(gaussian(), X, width, draws=draws)
