r"""Flow matching on manifolds (Chen & Lipman 2024, arXiv 2302.03660): data and uniform noise joined by geodesics.

    x_t = exp_x(f log_x(z)),      f = sigma / (alpha + sigma),  which is t on the straight schedule

The answer is the velocity dx_t/df, a tangent vector at x_t as long as the whole geodesic; following it forwards and
backwards gives both ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import floating
from sfumato.diffusion.manifold import Manifold, shorten
from sfumato.diffusion.process import Endpoints, States, along, lerp
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.weights import kept, mean_counted


def noise_level(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """ln(sigma / alpha) in [-12, 7], float32: (B,) or, where t is (B, L), (B, L)."""
    level = (-schedule.logsnr(t) / 2).clamp(-12, 7).to(torch.float32)
    return torch.full((len(x_t),), level.item(), device=x_t.device) if level.ndim == 0 else level


@dataclass(frozen=True)
class Geodesic:
    """Flow matching along geodesics, for points (B, ..., *point) of a manifold.

    Args:
        manifold: ``Torus()``, ``SO3()`` or ``Sphere()``.
        schedule: how fast the geodesic is walked; only sigma / alpha matters.

    z is a uniform point. The network is shown x_t itself and ln(sigma / alpha); it answers the velocity in the tangent
    space of x_t. An answer longer than the injectivity radius pi, which no geodesic has, is shortened.
    """

    manifold: Manifold
    schedule: Schedule = Linear()

    states: ClassVar[States] = "points"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "euler", "grid": "uniform", "eta": 0.0}

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return self.manifold.uniform(floating(x), rng)

    def start(self, z: Tensor) -> Tensor:
        return z

    def fraction(self, t: Tensor) -> Tensor:
        """How much of the way to the noise is done at time t, 0 to 1."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return sigma / (alpha + sigma)

    def at_fraction(self, tau: Tensor) -> Tensor:
        """The time at which this much of the way is done."""
        return self.schedule.at_angle(torch.atan2(tau, 1 - tau)).clamp(0, 1)

    def chord(self, x_t: Tensor, t: Tensor, x_s: Tensor, s: Tensor) -> Endpoints:
        """The endpoints of the geodesic through x_t and x_s."""
        gone = (self.fraction(t) - self.fraction(s)).clamp_min(1e-9)
        back = self.manifold.log(x_t, x_s)
        return self.endpoints(-back / along(gone, back), x_t, t)

    def between(self, a: Tensor, b: Tensor, share: Tensor) -> Tensor:
        way = self.manifold.log(a, b)
        return self.manifold.exp(a, along(share, way) * way)

    def apart(self, a: Endpoints, b: Endpoints, x_t: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean squared difference of two geodesics' velocities."""
        return mean_counted((self.target(a.x, a.z, t) - self.target(b.x, b.z, t)) ** 2, t, weight)

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        way = self.manifold.log(floating(x), z)
        return self.manifold.exp(x, along(self.fraction(t), way) * way)

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, noise_level(self.schedule, x_t, t)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The geodesic's velocity at x_t, in the tangent space there."""
        way = self.manifold.log(floating(x), z)
        return self.manifold.velocity(x, way, along(self.fraction(t), way))

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        wanted = self.target(x, z, t)
        answer = kept(answer.to(wanted.dtype), wanted.shape, t, weight)
        answer = self.manifold.tangent(self.interpolate(x, z, t), answer)
        return mean_counted((answer - wanted) ** 2, t, weight)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        velocity = shorten(self.manifold, self.manifold.tangent(x_t, answer.to(x_t.dtype)))
        done = along(self.fraction(t), velocity)
        return Endpoints(self.manifold.exp(x_t, -done * velocity), self.manifold.exp(x_t, (1 - done) * velocity))

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        """Mixes the answers, which are vectors; points of a manifold have no straight line between them."""
        answer = lerp(self.target(weak.x, weak.z, t), self.target(strong.x, strong.z, t), w)
        return self.endpoints(answer, x_t, t)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        """Along the geodesic to time s.

        Raises:
            ValueError: eta is not 0.
        """
        if eta != 0:
            raise ValueError(f"eta = {eta}: geodesics carry no fresh noise; use Heat(manifold) for stochastic sampling")
        return self.interpolate(*ends, s)
