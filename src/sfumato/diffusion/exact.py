"""Exact denoisers: data whose posterior mean is known in closed form. Teachers of the tests, benchmarks and lessons."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.process import Endpoints, Gaussian, along


@dataclass(frozen=True)
class Exact:
    """Base class: a data distribution with a known posterior mean E[x | x_t]; calling it guesses both endpoints.

    With a process whose network answers something else than data, the answer is formed and taken apart again, as it
    would be with a network.
    """

    process: Gaussian = field(default_factory=Gaussian, kw_only=True)

    def mean_given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | alpha x + sigma z = x_t]; coefficients shaped to multiply x_t (B, D)."""
        raise NotImplementedError

    def given(self, **condition: Any) -> dict[str, Any]:
        """Nothing: the distribution does not depend on conditions, which are ignored."""
        return {}

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor | None = None, **condition: Any) -> Endpoints:
        schedule = self.process.schedule
        alpha, sigma = (along(a, x_t) for a in (schedule.alpha(t), schedule.sigma(t)))
        x = self.mean_given(x_t, alpha, sigma)
        z = self.process.noise_given(x, x_t, t)
        return self.process.endpoints(self.process.target(x, z, t), x_t, t)


@dataclass(frozen=True)
class GaussianData(Exact):
    """Normal data with independent coordinates. mean, variance: (D,)."""

    mean: Tensor
    variance: Tensor

    def mean_given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + gain * (x_t - alpha * self.mean)

    def flow(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The exact probability flow from time t to time s."""
        a, b = (along(self.process.schedule.alpha(u), x_t) for u in (t, s))
        va, vb = (
            along(self.process.schedule.alpha(u), x_t) ** 2 * self.variance
            + along(self.process.schedule.sigma(u), x_t) ** 2
            for u in (t, s)
        )
        return b * self.mean + (vb / va).sqrt() * (x_t - a * self.mean)


@dataclass(frozen=True)
class MixtureData(Exact):
    """A mixture of isotropic normals. weights (K,), means (K, D), deviations (K,)."""

    weights: Tensor
    means: Tensor
    deviations: Tensor

    def mean_given(self, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        alpha, sigma = (a.reshape(-1, 1, 1) if a.ndim else a for a in (alpha, sigma))
        variance = alpha**2 * self.deviations[:, None] ** 2 + sigma**2  # (B or 1, K, 1)
        away = x_t[:, None] - alpha * self.means  # (B, K, D)
        log_density = -(away**2 / variance).sum(-1) / 2 - x_t.shape[1] / 2 * variance.log()[..., 0]
        share = torch.softmax(self.weights.log() + log_density, dim=1)[..., None]
        parts = self.means + alpha * self.deviations[:, None] ** 2 / variance * away
        return (share * parts).sum(1)


def finite_data(points: Tensor, blur: float = 0.0, process: Gaussian | None = None) -> MixtureData:
    """A finite data set (N, D), each point blurred by ``blur``: the softmax denoiser that a memorising network tends to."""
    weights = torch.full((len(points),), 1 / len(points), dtype=points.dtype)
    deviations = torch.full((len(points),), blur, dtype=points.dtype)
    return MixtureData(weights, points, deviations, process=process or Gaussian())
