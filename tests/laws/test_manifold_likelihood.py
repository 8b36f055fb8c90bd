"""Law 11 on manifolds: the probability flow's likelihood against densities in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.manifold_likelihood import log_volume, manifold_log_likelihood
from sfumato.diffusion.rng import Streams, key
from sfumato.diffusion.schedule import VE
from tests.laws.manifold_tables import MANIFOLDS, POINTS
from tests.laws.worlds import F64, normal

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
        logs, scores = self.parts(x_t, sigma)
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
    x = near(data, 6)
    wanted = data.log_density(x, 0.01)
    errors = [float((manifold_log_likelihood(data, x, n) - wanted).abs().max()) for n in (20, 40, 80)]
    print(name, "largest error of log p at 20, 40, 80 steps:", *(f"{error:.1e}" for error in errors))
    assert errors[1] < 1e-4
    assert errors[0] / errors[1] > 11
    assert math.log2(errors[1] / errors[2]) > 3.6
    assert (wanted - data.log_density(x)).abs().max() < 5e-3


@every_world
def test_law_11_narrow_data(name: str) -> None:
    data = single(name, 0.1)
    x = near(data, 4)
    assert (manifold_log_likelihood(data, x, 40) - data.log_density(x, 0.01)).abs().max() < 2e-4
