"""Law 11 on manifolds: the probability flow's likelihood against densities in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.geodesic import Geodesic
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.manifold import SO3, Sphere, Torus
from sfumato.diffusion.manifold_likelihood import log_volume, manifold_log_likelihood
from sfumato.diffusion.process import Endpoints, Gaussian
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.schedule import EDM, VE, Cosine, Linear
from tests.laws.manifold_tables import MANIFOLDS, POINTS
from tests.laws.worlds import F64, Told, normal

VOLUMES = {"torus": (2 * math.pi) ** 2, "so3": 8 * math.pi**2, "sphere": 4 * math.pi}
every_world = pytest.mark.parametrize("name", MANIFOLDS)


def unused(*_: Any) -> Tensor:
    raise AssertionError("the exact answers need no network")


@dataclass(frozen=True)
class Kernels(Denoiser):
    """Data that is a mixture of heat kernels around points. Their noise adds in variance, so every score is known."""

    centres: Any = None
    """(K, *point)"""
    widths: Any = None
    """(K,)"""
    weights: Any = field(default_factory=lambda: torch.ones(1, dtype=F64))

    def parts(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of each part relative to the uniform law, and its gradient: (K, B, ...)."""
        manifold, kernel = self.process.manifold, self.process.kernel
        to = torch.stack([manifold.log(x, centre.expand_as(x)) for centre in self.centres])
        length = manifold.length(to)
        eps = torch.hypot(self.widths, sigma).reshape((-1,) + (1,) * (length.ndim - 1)).expand_as(length)
        away = length.clamp_min(1e-12)
        per_point = kernel.log_density(length, eps)[..., None].flatten(2).sum(2)
        return per_point, -kernel.score(away, eps) / away * to

    def log_density(self, x: Tensor, sigma: float = 0.0) -> Tensor:
        logs, _ = self.parts(x, torch.tensor(sigma, dtype=F64))
        total: Tensor = torch.logsumexp(logs + self.weights.log()[:, None], 0)
        return total - log_volume(self.process.manifold, x)

    def answer(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Tensor:
        sigma = self.process.schedule.sigma(t)
        logs, scores = self.parts(x_t.double(), sigma)
        share = torch.softmax(logs + self.weights.log()[:, None], 0)
        return sigma * (share.reshape(share.shape + (1,) * (scores.ndim - 2)) * scores).sum(0)


def points(name: str, count: int, seed: str = "points") -> Tensor:
    shape = torch.empty(count, *POINTS[name], dtype=F64)
    found: Tensor = MANIFOLDS[name].uniform(shape, Streams(key(seed), range(count)))
    return found


def single(name: str, width: float = 0.4, schedule: Any = VE(0.01, 5.5)) -> Kernels:
    widths = torch.tensor([width], dtype=F64)
    return Kernels(unused, Heat(MANIFOLDS[name], schedule), centres=points(name, 1, "centre"), widths=widths)


def near(data: Kernels, count: int, reach: float = 3.0, seed: int = 3) -> Tensor:
    """Points up to some deviations around the centre."""
    manifold = data.process.manifold
    x = data.centres[:1].expand(count, *data.centres.shape[1:]).clone()
    v = manifold.tangent(x, normal(*manifold.like_tangent(x).shape, seed=seed))
    size = torch.linspace(0, reach, count, dtype=F64).reshape((-1,) + (1,) * (v.ndim - 1))
    moved: Tensor = manifold.exp(x, float(data.widths[0]) * size * v / v.norm(dim=-1, keepdim=True))
    return moved


# ---- heat: a kernel around a point, whose semigroup gives every score ------------------------------------------------


@every_world
def test_law_11_a_kernel_to_the_order_of_runge_kutta(name: str) -> None:
    """The walk begins at sigma = 0.01, so it measures the density blurred by that."""
    data = single(name)
    x = near(data, 4)
    wanted = data.log_density(x, 0.01)
    errors = [float((manifold_log_likelihood(data, x, n) - wanted).abs().max()) for n in (20, 40)]
    print(name, "largest error of log p at 20, 40 steps:", *(f"{error:.1e}" for error in errors))
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 11
    assert (wanted - data.log_density(x)).abs().max() < 5e-3


@pytest.mark.slow
@every_world
@pytest.mark.parametrize("width", [0.1, 0.4, 1.0])
def test_law_11_a_kernel_of_any_width(name: str, width: float) -> None:
    """80 steps against 40: order 4, down to the 1e-6 by which the kernel is not uniform yet at the end of the walk."""
    data = single(name, width)
    x = near(data, 12)
    coarse, fine = ((manifold_log_likelihood(data, x, n) - data.log_density(x, 0.01)).abs().max() for n in (40, 80))
    print(name, width, f"{coarse:.1e} {fine:.1e}")
    assert fine < coarse / 11 + 1e-6
    assert fine < 2e-5


def circle_mixture(schedule: Any = VE(0.01, 5.5)) -> Kernels:
    values = ([[-2.9], [0.4]], [0.3, 0.6], [0.35, 0.65])
    centres, widths, weights = (torch.tensor(value, dtype=F64) for value in values)
    return Kernels(unused, Heat(Torus(), schedule), centres, widths, weights)


def test_law_11_a_mixture_on_the_circle() -> None:
    """Its density, and that it integrates to one (the trapezoidal rule is exact for smooth periodic functions)."""
    data = circle_mixture()
    x = Torus().project(torch.arange(64, dtype=F64)[:, None] * (2 * math.pi / 64))
    found = manifold_log_likelihood(data, x, 60)
    assert (found - data.log_density(x, 0.01)).abs().max() < 1e-4
    assert float(found.exp().sum() * 2 * math.pi / 64) == pytest.approx(1, abs=1e-6)


def test_begins_where_it_is_told_and_on_any_schedule() -> None:
    x = torch.linspace(-3, 3, 5, dtype=F64)[:, None]
    for smallest in (0.05, 0.3):
        found = manifold_log_likelihood(circle_mixture(), x, 50, smallest=smallest)
        assert (found - circle_mixture().log_density(x, smallest)).abs().max() < 5e-5
        other = manifold_log_likelihood(circle_mixture(EDM(0.002, 5.5)), x, 50, smallest=smallest)
        assert (found - other).abs().max() < 1e-9


@every_world
def test_moving_data_and_point_together_changes_nothing(name: str) -> None:
    data = single(name)
    x = near(data, 3)
    turn = SO3().uniform(torch.empty(1, 3, 3, dtype=F64), torch.Generator().manual_seed(5))[0]

    def move(y: Tensor) -> Tensor:
        return Torus().exp(y, torch.full_like(y, 2.0)) if name == "torus" else y @ turn.T if y.ndim == 2 else turn @ y

    moved = Kernels(unused, data.process, move(data.centres), data.widths)
    one, two = manifold_log_likelihood(data, x, 8), manifold_log_likelihood(moved, move(x), 8)
    assert (one - two).abs().max() < 1e-9


@every_world
@pytest.mark.parametrize("probes", [None, 2])
def test_points_of_one_sample_add_up(name: str, probes: int | None) -> None:
    """(B, L, *point): the joint density of independent points."""
    data = single(name, 0.6)
    x = near(data, 6)
    pairs = x.reshape(2, 3, *x.shape[1:])
    rng = torch.Generator().manual_seed(1)
    found = manifold_log_likelihood(data, pairs, 12, probes=probes, rng=rng)
    assert found.shape == (2,)
    wanted = manifold_log_likelihood(data, x, 12).reshape(2, 3).sum(1)
    if probes is None or name == "torus":  # on the torus the Jacobian is diagonal, and signs are exact
        assert (found - wanted).abs().max() < 1e-10
    else:
        assert (found - wanted).abs().max() < 3


@pytest.mark.parametrize("name", ["so3", "sphere"])
def test_probes_have_the_right_mean(name: str) -> None:
    data = single(name, 0.5)
    other = Kernels(unused, data.process, points(name, 2, "two"), torch.tensor([0.5, 0.8], dtype=F64), normal(2).exp())
    x = near(data, 2)[1:]
    found = manifold_log_likelihood(other, x.expand(300, *x.shape[1:]), 6, probes=1, rng=Streams(1, range(300)))
    assert found.std() > 0.01
    assert abs(found.mean() - manifold_log_likelihood(other, x, 6)) < 4 * found.std() / 300**0.5


# ---- geodesics -------------------------------------------------------------------------------------------------------


def test_uniform_data_has_minus_the_log_of_the_volume() -> None:
    for name, manifold in MANIFOLDS.items():
        still = Denoiser(lambda x, level, m=manifold: torch.zeros_like(m.like_tangent(x)), Geodesic(manifold))  # type: ignore[misc]
        found = manifold_log_likelihood(still, points(name, 3), 5)
        assert (found + math.log(VOLUMES[name])).abs().max() < 1e-14
    area = log_volume(Sphere(), torch.zeros(1, 4, dtype=F64))
    assert math.exp(area) == pytest.approx(2 * math.pi**2)


_PLACE = torch.linspace(0, math.pi, 4001, dtype=F64)
_LENGTHS: dict[str, Tensor] = {
    "torus": torch.ones_like(_PLACE) / math.pi,
    "so3": (1 - _PLACE.cos()) / math.pi,
    "sphere": _PLACE.sin() / 2,
}
"""Density of the length of the way from a point to a uniform one; it does not depend on the point."""


def average(name: str, values: Tensor) -> Tensor:
    return torch.trapezoid(values * _LENGTHS[name], _PLACE)


@dataclass(frozen=True)
class FirstHarmonic(Denoiser):
    """Data of density proportional to 1 + c h(x), h the first eigenfunction of the Laplacian around a centre: the cosine
    of an angle, the trace of a turn, the height on the sphere.

    Seen from its end, too, a geodesic from data to a uniform point is a uniform way: h shrinks by the mean of its
    profile over lengths, and the velocity is the mean of ways weighted by the density where they begin.
    """

    centre: Any = None
    c: float = 0.45

    @property
    def name(self) -> str:
        return next(name for name, manifold in MANIFOLDS.items() if manifold == self.process.manifold)

    def harmonic(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """h, (B,) (or per angle (B, D)), and its gradient."""
        if self.name == "torus":
            return (x - self.centre).cos(), -(x - self.centre).sin()
        if self.name == "sphere":
            height = (x * self.centre).sum(-1)
            return height, self.centre - height[..., None] * x
        q = self.centre.T @ x
        gradient = torch.stack(
            [q[..., 1, 2] - q[..., 2, 1], q[..., 2, 0] - q[..., 0, 2], q[..., 0, 1] - q[..., 1, 0]], -1
        )
        return q.diagonal(dim1=-2, dim2=-1).sum(-1), gradient

    def log_density(self, x: Tensor) -> Tensor:
        logs = torch.log1p(self.c * self.harmonic(x)[0])
        return (logs.sum(-1) if self.name == "torus" else logs) - math.log(VOLUMES[self.name])

    def answer(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Tensor:
        f = self.process.fraction(t)
        n = {"torus": 1, "so3": 3, "sphere": 2}[self.name]
        kept = (f * _PLACE).cos()
        kept = average(self.name, (1 + 2 * kept) / 3 if self.name == "so3" else kept)
        # a way w begins at h(exp(y, -f w)) = ... - (sin(f a) / a) grad h . w, and E[w w^T] = a^2 / n
        rate = average(self.name, _PLACE * (f * _PLACE).sin()) / n
        h, gradient = self.harmonic(x_t)
        weight = 1 + self.c * kept * h
        return -self.c * rate * gradient / (weight if self.name == "torus" else weight[..., None])


@every_world
def test_law_11_geodesics_of_a_first_harmonic(name: str) -> None:
    data = FirstHarmonic(unused, Geodesic(MANIFOLDS[name]), points(name, 1, "centre")[0])
    x = points(name, 12)
    errors = [
        float((manifold_log_likelihood(data, x, n, smallest=0) - data.log_density(x)).abs().max()) for n in (5, 10, 20)
    ]
    print(name, "largest error of log p at 5, 10, 20 steps:", *(f"{error:.1e}" for error in errors))
    assert errors[2] < 1e-5
    assert min(math.log2(errors[0] / errors[1]), math.log2(errors[1] / errors[2])) > 3.5


@dataclass(frozen=True)
class Ways(Denoiser):
    """Geodesics from data of any density on the circle: the mean way by quadrature."""

    log_density: Any = None

    def answer(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Tensor:
        way = torch.linspace(-math.pi, math.pi, 2001, dtype=F64)
        weight = torch.softmax(
            self.log_density((x_t - self.process.fraction(t) * way).reshape(-1, 1)).reshape(-1, 2001), 1
        )
        return (weight * way).sum(1, keepdim=True)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
def test_law_11_geodesics_of_a_mixture_on_the_circle(schedule: Any) -> None:
    x = torch.linspace(-3, 3, 9, dtype=F64)[:, None]
    data = circle_mixture()
    found = manifold_log_likelihood(Ways(unused, Geodesic(Torus(), schedule), data.log_density), x, 60)
    assert (found - data.log_density(x)).abs().max() < 1e-3


# ---- gradients -------------------------------------------------------------------------------------------------------


@every_world
def test_gradients_flow_to_the_points_and_the_denoiser(name: str) -> None:
    data, manifold = single(name, 0.9), MANIFOLDS[name]
    start = near(data, 2, 1.5)[1:]
    widths = data.widths.clone().requires_grad_()
    data = Kernels(unused, data.process, data.centres, widths)
    v = torch.zeros_like(manifold.like_tangent(start)).requires_grad_()
    x = manifold.exp(start, manifold.tangent(start, v))
    found = manifold_log_likelihood(data, x, 10, differentiable=True)
    got = torch.autograd.grad(found.sum(), (v, widths), retain_graph=True)
    wanted = torch.autograd.grad(data.log_density(x, 0.01).sum(), (v, widths))
    for one, two in zip(got, wanted, strict=True):
        assert (one - two).abs().max() < 2e-3
    assert (found.detach() - manifold_log_likelihood(data, x, 10)).abs().max() < 1e-12
    assert not manifold_log_likelihood(data, x, 2).requires_grad


@pytest.mark.parametrize("process", [Heat(SO3()), Geodesic(Sphere()), Geodesic(SO3())], ids=lambda p: repr(p)[:16])
def test_gradients_are_those_of_finite_differences(process: Any) -> None:
    """Of whatever the steps compute, so to rounding, for a network with a parameter."""
    x = points("so3", 2) if process.manifold == SO3() else points("sphere", 2)
    mixing = normal(x[0].numel(), 3, seed=4)

    def likelihood(gain: Tensor, y: Tensor, differentiable: bool = True) -> Tensor:
        def network(shown: Tensor, level: Tensor) -> Tensor:
            return gain * torch.tanh(shown.flatten(1) @ mixing) * torch.exp(-(level[:, None] ** 2)).to(F64)

        return manifold_log_likelihood(Denoiser(network, process), y, 3, differentiable=differentiable)

    gain = torch.tensor(0.7, dtype=F64, requires_grad=True)
    y = x.clone().requires_grad_()
    by_gain, by_y = torch.autograd.grad(likelihood(gain, y).sum(), (gain, y))
    h = 1e-5
    v = process.manifold.tangent(x, normal(2, 3, seed=6))
    up, down = (likelihood(gain.detach() + d, x, False).sum() for d in (h, -h))
    assert float(by_gain) == pytest.approx(float(up - down) / (2 * h), rel=1e-5)
    up, down = (likelihood(gain.detach(), process.manifold.exp(x, d * v), False).sum() for d in (h, -h))
    rate = (process.manifold.exp(x, h * v) - process.manifold.exp(x, -h * v)) / (2 * h)
    assert float((by_y * rate).sum()) == pytest.approx(float(up - down) / (2 * h), rel=1e-5)


# ---- what is accepted ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Guessed(Told):
    """A denoiser of which only the guessed endpoints are seen, as a guided one's."""

    denoiser: Any

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def guess(self, x_t: Any, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        found: Endpoints = self.denoiser(x_t, t)
        return found


@every_world
def test_guessed_endpoints_say_the_same_as_bare_answers(name: str) -> None:
    harmonic = FirstHarmonic(unused, Geodesic(MANIFOLDS[name]), points(name, 1, "centre")[0])
    for data, x, near_enough in (
        (harmonic, points(name, 3), 1e-10),
        (single(name, 0.6), near(single(name, 0.6), 2, 2.0)[1:], 1e-5),
    ):
        one, two = manifold_log_likelihood(data, x, 5), manifold_log_likelihood(Guessed(data), x, 5)
        assert (one - two).abs().max() < near_enough


@every_world
@pytest.mark.parametrize("process", [Geodesic, Heat])
def test_answers_too_long_are_held_as_in_sampling(name: str, process: Any) -> None:
    manifold, x = MANIFOLDS[name], points(name, 2)
    mixing = normal(x[0].numel(), manifold.like_tangent(x)[0].numel(), seed=4)
    loud = Denoiser(lambda shown, level: 50 * shown.flatten(1) @ mixing, process(manifold))
    one, two = (manifold_log_likelihood(guess, x, 3, smallest=1.0) for guess in (loud, Guessed(loud)))
    assert (one - two).abs().max() < 1e-9


def test_float32_is_enough_for_a_thousandth() -> None:
    data = single("so3", 0.6)
    x = near(data, 3)
    found = manifold_log_likelihood(data, x.float(), 10)
    assert found.dtype == torch.float32
    assert (found - manifold_log_likelihood(data, x, 10)).abs().max() < 1e-3


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"probes": 0}])
def test_steps_and_probes_are_counted_from_one(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        manifold_log_likelihood(single("so3"), points("so3", 1), **wrong)  # type: ignore[arg-type]


def test_what_cannot_be_done_is_said() -> None:
    x = points("so3", 1)
    with pytest.raises(TypeError, match="must be Geodesic or Heat, got Gaussian"):
        manifold_log_likelihood(Denoiser(unused, Gaussian()), x)
    with pytest.raises(ValueError, match="pass a Denoiser"):
        manifold_log_likelihood(Guessed(single("so3")), x, differentiable=True)
    with pytest.raises(TypeError, match="the volume of None"):
        log_volume(None, x)  # type: ignore[arg-type]
