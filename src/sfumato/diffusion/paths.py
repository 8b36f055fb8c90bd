"""Paths: the geometry of processes whose states move along curves, whatever their pace. Flow maps walk on it."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import along, blend, remembered
from sfumato.diffusion.rng import Rng, normal_like
from sfumato.diffusion.schedule import Schedule
from sfumato.diffusion.weights import mean_counted


class Endpoints(NamedTuple):
    """The guess of both ends of the path through x_t: data ``x`` and noise ``z``, shaped like x_t."""

    x: Any
    z: Any


class Path(Protocol):
    """What a process must offer beyond :class:`Process` to have flow maps: its paths as geometry, whatever their pace.

    Every path runs from data to noise, and the share of noise, tau = sigma / (alpha + sigma), tells how far it has come.
    At unit sum, x_t / (alpha + sigma), a Gaussian path is the straight line (1 - tau) x + tau z, whose velocity is z - x
    on every schedule; on a manifold it is a geodesic.
    """

    def fraction(self, t: Tensor) -> Tensor:
        """The share of noise tau at time t, 0 to 1, shaped like t."""

    def at_fraction(self, tau: Tensor) -> Tensor:
        """The time with this share of noise."""

    def chord(self, x_t: Any, t: Tensor, x_s: Any, s: Tensor) -> Any:
        """The endpoints of the path that runs through x_t at time t and x_s at time s < t."""

    def between(self, a: Any, b: Any, share: Tensor) -> Any:
        """The point ``share`` (B,) of the way from a to b, two states at one time; above 1 it lies beyond b."""

    def apart(self, a: Any, b: Any, x_t: Any, t: Tensor, weight: Any = None) -> Tensor:
        """Mean squared difference of the velocities at x_t of two paths through it, given by their endpoints: (B,); over
        what counts, as in a loss."""


class StraightPath:
    """The geometry of Gaussian processes. A mixin for processes with a ``schedule`` and states that are vectors."""

    schedule: Any

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        """Standard normal noise shaped like x; a process with noise of another law gives its own."""
        return normal_like(x, rng)

    def fraction(self, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        share: Tensor = sigma / (alpha + sigma)
        return share

    def at_fraction(self, tau: Tensor) -> Tensor:
        t: Tensor = self.schedule.at_angle(torch.atan2(tau, 1 - tau))
        return t.clamp(0, 1)

    def chord(self, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Endpoints:
        tau, gone = self.fraction(t), self.fraction(t) - self.fraction(s)
        here, there = (x / along(self.schedule.alpha(u) + self.schedule.sigma(u), x) for x, u in ((x_t, t), (x_s, s)))
        way = (here - there) / along(gone.clamp_min(1e-9), here)
        return Endpoints(here - along(tau, here) * way, here + along(1 - tau, here) * way)

    def between(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        return a + along(share, a) * (b - a)

    def noised(self, x_s: Tensor, s: Tensor, t: Tensor, rng: Rng = None) -> Tensor:
        """A draw of x_t given x_s, s < t: the forward Markov kernel, N(alpha x_s, sigma_t^2 - (alpha sigma_s)^2) with
        alpha = alpha_t / alpha_s."""
        kept = self.schedule.alpha(t) / self.schedule.alpha(s)
        added = (self.schedule.sigma(t) ** 2 - (kept * self.schedule.sigma(s)) ** 2).clamp_min(0).sqrt()
        return along(kept, x_s) * x_s + along(added, x_s) * self.prior(x_s, rng)

    def renoise(self, z: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        """Replace part of the noise by fresh noise: none at eta = 0, as much as the Markov chain does at eta = 1.

        The variance replaced is eta^2 (1 - SNR_t / SNR_s): DDPM's posterior variance (Ho 2020, eq. 7) in one line.
        """
        if eta == 0:
            return z
        kept, drawn = _renewal((self.schedule, eta), t, s)
        return blend(kept, z, drawn, self.prior(z, rng))

    def apart(self, a: Endpoints, b: Endpoints, x_t: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        return mean_counted(((a.z - a.x) - (b.z - b.x)) ** 2, t, weight)


@remembered
def _renewal(owner: tuple[Schedule, float], t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Factors on the old and on the fresh noise, see :meth:`StraightPath.renoise`."""
    schedule, eta = owner
    share = (-(eta**2) * torch.expm1(schedule.logsnr(t) - schedule.logsnr(s))).clamp(0, 1)
    return (1 - share).sqrt(), share.sqrt()
