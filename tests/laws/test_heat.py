"""Heat kernels: densities, scores, quantiles, semigroups; and sampling from exact scores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.grids import uniform
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.heat_quantile import angle_of, angle_of_score, branch_end, radius_of
from sfumato.diffusion.manifold import SO3, Torus
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.sample import Euler, sample
from tests.laws.manifold_tables import KERNELS, MANIFOLDS, PROCESSES, decay, frequency, igso3_score_table, score_table
from tests.laws.worlds import F64, Told, scalar

every_kernel = pytest.mark.parametrize("name", KERNELS)
WIDTHS = (1e-3, 0.01, 0.1, 0.3, 0.5, 0.69, 0.71, 1.0, 2.0, 4.0, 10.0)


def spread(kernel: Any, eps: float, count: int = 4000) -> tuple[Tensor, Tensor, Tensor]:
    """Angles, widths and trapezoid weights that carry the whole kernel."""
    a = torch.linspace(0, min(math.pi, 14 * eps), count + 1, dtype=F64)
    weight = torch.full_like(a, float(a[1]))
    weight[0] = weight[-1] = a[1] / 2
    return a, torch.full_like(a, eps), weight


def eigenfunction(name: str, a: Tensor, order: int) -> Tensor:
    """Zonal eigenfunctions of the Laplacian, 1 at angle 0."""
    if name == "torus":
        return (order * a).cos()
    if name == "sphere":
        return torch.special.legendre_polynomial_p(a.cos(), order)
    return (1 + 2 * sum((m * a).cos() for m in range(1, order + 1))) / (2 * order + 1)


@every_kernel
@pytest.mark.parametrize("eps", WIDTHS)
def test_eigenfunctions_decay_by_their_eigenvalue(name: str, eps: float) -> None:
    """Order 0: the density integrates to 1. Order 1 on rotations: E[tr R] = 3 exp(-eps^2) (truth 42)."""
    kernel = KERNELS[name]
    a, e, weight = spread(kernel, eps)
    p = kernel.log_pdf(a, e).exp() * weight
    for order in (0, 1, 2, 5, 9):
        # the trapezoidal rule errs by the square of the step where the integrand is not periodic
        assert abs(float((p * eigenfunction(name, a, order)).sum()) - decay(f"x_{name}", eps, order)) < 2e-6


@pytest.mark.parametrize("eps", [0.71, 1.0, 2.0, 4.0])
def test_the_sphere_s_kernel_is_its_legendre_series(eps: float) -> None:
    a = torch.linspace(0, math.pi, 101, dtype=F64)
    series = sum((2 * l + 1) * decay("x_sphere", eps, l) * eigenfunction("sphere", a, l) for l in range(20))
    assert (KERNELS["sphere"].log_density(a, torch.full_like(a, eps)).exp() / series - 1).abs().max() < 1e-11


@every_kernel
def test_both_forms_agree_where_they_meet(name: str) -> None:
    kernel, a = KERNELS[name], torch.linspace(0, math.pi, 301, dtype=F64)
    below, above = torch.full_like(a, 0.7 - 1e-12), torch.full_like(a, 0.7 + 1e-12)
    for function in (kernel.log_density, kernel.score, kernel.log_survival, kernel.log_cdf):
        one, two = function(a[1:-1], below[1:-1]), function(a[1:-1], above[1:-1])
        assert (one - two).abs().max() < 3e-10


@every_kernel
def test_scores_are_the_gradient_of_the_log_density(name: str) -> None:
    table = igso3_score_table() if name == "so3" else score_table(name)
    assert max(max(row.values()) for row in table.values()) < 1e-8


@every_kernel
@pytest.mark.parametrize("eps", WIDTHS)
def test_tails_are_complementary_and_derivatives_of_each_other(name: str, eps: float) -> None:
    kernel = KERNELS[name]
    a = (torch.tensor([0.1, 0.7, 1.3], dtype=F64) * min(eps, 1.5)).requires_grad_()
    e = torch.full_like(a, eps).detach()
    survival, cdf = kernel.log_survival(a, e).exp(), kernel.log_cdf(a, e).exp()
    assert (survival + cdf - 1).abs().max() < 1e-13
    (slope,) = torch.autograd.grad(survival.sum(), a)
    assert (slope / kernel.log_pdf(a, e).exp() + 1).abs().max() < 1e-8


@every_kernel
@pytest.mark.parametrize("eps", WIDTHS)
def test_quantiles_invert_each_other(name: str, eps: float) -> None:
    kernel = KERNELS[name]
    far = min(0.99 * math.pi, 400 * eps)
    a = torch.cat([torch.tensor([0.0, 1e-9, 1e-5], dtype=F64), torch.linspace(0.001, 1, 200, dtype=F64)]) * far
    e = torch.full_like(a, eps)
    r = radius_of(kernel, a, e)
    assert (angle_of(kernel, r, e) - a).abs().max() < 1e-11
    assert (r.diff() > 0).all()
    assert r[0] == 0


@every_kernel
@pytest.mark.parametrize("eps", WIDTHS)
def test_scores_are_inverted_on_the_near_branch(name: str, eps: float) -> None:
    kernel = KERNELS[name]
    end = float(branch_end(kernel, scalar(eps)))
    a = torch.linspace(0, 0.95, 50, dtype=F64) * end
    e = torch.full_like(a, eps)
    assert (angle_of_score(kernel, -kernel.score(a, e), e) - a).abs().max() < 1e-11
    held = angle_of_score(kernel, torch.full((3,), 1e9, dtype=F64), torch.full((3,), eps, dtype=F64))
    assert (held / end - 1).abs().max() < 1e-12
    # nowhere is the score longer than at the end of the branch, but for the margin left there
    everywhere = torch.cat([torch.linspace(0, 3.14, 2000, dtype=F64), math.pi - torch.logspace(-9, -2, 500, dtype=F64)])
    longest = float(-kernel.score(everywhere, torch.full_like(everywhere, eps)).min())
    assert float(-kernel.score(scalar(end), scalar(eps))) > longest * 0.98


@every_kernel
def test_gradients_of_quantiles_match_differences(name: str) -> None:
    kernel, h = KERNELS[name], 1e-5
    e = torch.tensor([0.05, 0.5, 1.0, 2.0], dtype=F64)
    for function, at in ((angle_of, 0.8), (angle_of, 1.7), (radius_of, 0.04), (angle_of_score, 0.06)):
        x = torch.full_like(e, at).requires_grad_()
        (slope,) = torch.autograd.grad(function(kernel, x, e).sum(), x)
        difference = (function(kernel, x.detach() + h, e) - function(kernel, x.detach() - h, e)) / (2 * h)
        assert torch.allclose(slope, difference, rtol=1e-5, atol=1e-7)


# ---- the semigroup, and eta ------------------------------------------------------------------------------------------


def test_two_rotations_drawn_one_after_the_other_are_one() -> None:
    """Semigroup (truth 42): eps1^2 + eps2^2, seen in the trace, by composed random rotations."""
    process, count = Heat(SO3()), 10_000
    x = torch.eye(3, dtype=F64).expand(count, 3, 3)
    z = torch.randn(2, count, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    one, two = scalar(0.5), scalar(0.8)
    trace = process._moved(process._moved(x, z[0], one), z[1], two).diagonal(dim1=-2, dim2=-1).sum(-1)
    for order, value in ((1, trace / 3), (2, (trace**2 - trace - 1) / 5)):
        wanted = decay("x_so3", math.hypot(0.5, 0.8), order)
        assert abs(float(value.mean()) - wanted) < 4 * float(value.std()) / count**0.5


@pytest.mark.parametrize("name", ["heat_torus", "heat_so3", "heat_sphere"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_law_5_fresh_noise_keeps_the_kernel(name: str, eta: float) -> None:
    """With the data known, the law at s is the kernel of sigma(s) for every eta."""
    process, count = PROCESSES[name], 1000 if name == "heat_sphere" else 4000
    manifold, s, t = process.manifold, scalar(0.6), scalar(0.8)
    z = torch.randn(count, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    x = manifold.origin(z)
    ends = Endpoints(x, z)
    x_s = process.step(ends, process.interpolate(x, z, t), t, s, eta, torch.Generator().manual_seed(1))
    angle = manifold.length(manifold.log(x, x_s))[:, 0]
    for order in (1, 2):
        value = eigenfunction(name.split("_")[1], angle, order)
        wanted = decay(name, float(process.schedule.sigma(s)), order)
        assert abs(float(value.mean()) - wanted) < 4 * float(value.std()) / count**0.5
    moved = manifold.length(manifold.log(process.interpolate(x, z, s), x_s))
    assert moved.mean() > 0.1


@pytest.mark.parametrize("t", [0.0, 0.3, 0.7, 0.9])
def test_law_5_first_frequency_of_rotations(t: float) -> None:
    sigma = float(PROCESSES["heat_so3"].schedule.sigma(scalar(t)))
    assert abs(3 * frequency("heat_so3", t, 1) - 3 * math.exp(-(sigma**2))) < 1e-11


# ---- sampling from an exact score ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TorusMixture(Told):
    """The exact denoiser of a mixture of wrapped normals on one circle; the score by autograd of its series."""

    weights: Tensor
    means: Tensor
    deviations: Tensor
    process: Heat

    def coefficient(self, k: int, sigma: float = 0.0) -> Tensor:
        """E[e^(i k x)]."""
        decayed = self.weights * (-(k**2) * (self.deviations**2 + sigma**2) / 2).exp()
        return (decayed * torch.polar(torch.ones_like(self.means), k * self.means)).sum()

    def guess(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        sigma = self.process.schedule.sigma(t)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            turns = 2 * math.pi * torch.arange(-6, 7, dtype=F64)
            variance = (self.deviations**2 + sigma**2)[:, None]
            off = x[..., None, None] - self.means[:, None] + turns
            log_parts = self.weights.log()[:, None] - variance.log() / 2 - off**2 / (2 * variance)
            (score,) = torch.autograd.grad(log_parts.flatten(-2).logsumexp(-1).sum(), x)
        return self.process.endpoints(sigma * score, x_t, t)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_torus_mixture_is_sampled_from_its_score(eta: float) -> None:
    """Errors of the Fourier coefficients fall with the number of steps."""
    data = TorusMixture(
        torch.tensor([0.3, 0.5, 0.2], dtype=F64),
        torch.tensor([-2.9, 0.4, 2.2], dtype=F64),
        torch.tensor([0.3, 0.5, 0.2], dtype=F64),
        Heat(Torus()),
    )
    count = 2000
    z = torch.special.ndtri((torch.arange(count, dtype=F64) + 0.5) / count)[:, None]
    errors = []
    for steps in (8, 16, 32, 64) if eta == 0 else (8, 32):
        generator = torch.Generator().manual_seed(0)
        x = sample(data, z, uniform(data.process.schedule, steps), Euler(eta), generator)[:, 0]
        found = [torch.polar(torch.ones_like(x), k * x).mean() for k in range(1, 5)]
        errors.append(max(float((f - data.coefficient(k, 0.01)).abs()) for k, f in enumerate(found, 1)))
    if eta == 0:
        assert all(b < 0.65 * a for a, b in pairwise(errors))
        assert errors[-1] < 0.03
    else:
        assert errors[-1] < max(errors[0], 4 / count**0.5)
        assert errors[-1] < 0.1


@pytest.mark.parametrize("name", MANIFOLDS)
def test_one_known_datum_is_reached_exactly(name: str) -> None:
    """For a single datum the exact answer's steps are exact: any number of them ends within sigma(0) |z| of it, on the
    very path of the kernel's flow."""
    process = PROCESSES[f"heat_{name}"]
    z = torch.randn(30, 3, dtype=F64, generator=torch.Generator().manual_seed(0)) * 0.5
    x = process.manifold.origin(z)
    x_t, times = process.interpolate(x, z, scalar(0.6)), torch.linspace(0.6, 0, 4, dtype=F64)
    for t, s in pairwise(times):
        ends = process.endpoints(process._target(x, x_t, t), x_t, t)
        x_t = process.step(ends, x_t, t, s)
    assert process.manifold.distance(x_t, process.interpolate(x, z, scalar(0.0))).max() < 1e-9
