r"""Diffusion on manifolds by the heat kernel: the wrapped normal on the torus, IGSO(3) on rotations, its like on the sphere.

The noise z is a standard normal tangent vector, and x_t = exp_x(v) where v points along z and its length has the same
quantile under the kernel of deviation sigma(t) as |z| under the normal law. So x_t has exactly the kernel's law at every
t, x_t moves along the kernel's own probability flow as t changes with z held, and for small sigma v is sigma z. This is
the Gaussian process of curved worlds: "interpolate the guessed endpoints at s" remains a step of the probability flow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import floating
from sfumato.diffusion.geodesic import noise_level
from sfumato.diffusion.heat_kernel import CIRCLE, DIRECTIONS, ROTATIONS, WIDEST, Kernel
from sfumato.diffusion.heat_quantile import angle_of, angle_of_score, radius_of
from sfumato.diffusion.manifold import SO3, Manifold, Sphere, Torus
from sfumato.diffusion.process import Endpoints, States, along, lerp
from sfumato.diffusion.rng import Rng, normal_like
from sfumato.diffusion.schedule import VE, Schedule
from sfumato.diffusion.weights import kept, mean_counted

_KERNELS: dict[type, Kernel] = {Torus: CIRCLE, SO3: ROTATIONS, Sphere: DIRECTIONS}
_SMALLEST = 1e-9  # of a length by which a vector is divided


@dataclass(frozen=True)
class Heat:
    """Diffusion by the heat kernel (De Bortoli 2022; IGSO(3): Leach 2022, Yim 2023), for points (B, ..., *point).

    Args:
        manifold: ``Torus()``, ``SO3()`` or ``Sphere()`` in three dimensions.
        schedule: sigma(t) is the kernel's deviation in radians per tangent coordinate; alpha must be 1. At the default
            end, 5.5, all three kernels are uniform to 1e-6.

    z is a standard normal tangent vector, (B, ..., *tangent); on the sphere an ambient one, of which the tangent part
    counts. The network is shown x_t and ln(sigma); it answers sigma times the score, a tangent vector at x_t. A score
    tells how far the data is only up to the angle where the kernel's score is longest: a longer answer is held there,
    and data farther away is guessed at the nearer of the two places with that score.

    Raises:
        ValueError: a schedule with alpha other than 1, an unknown manifold, directions in other than 3 dimensions.
    """

    manifold: Manifold
    schedule: Schedule = VE(0.01, 5.5)

    states: ClassVar[States] = "points"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "euler", "grid": "cosine", "eta": 1.0}

    def __post_init__(self) -> None:
        if type(self.manifold) not in _KERNELS:
            raise ValueError(
                f"no heat kernel is known for {self.manifold!r}: use Torus(), SO3() or Sphere(), or Geodesic"
            )
        alpha = self.schedule.alpha(torch.linspace(0, 1, 11, dtype=torch.float64))
        if bool((alpha != 1).any()):
            raise ValueError(f"Heat only adds noise, but {self.schedule!r} has alpha below 1: use VE or EDM")

    @property
    def kernel(self) -> Kernel:
        """The heat kernel as a function of the angle."""
        return _KERNELS[type(self.manifold)]

    def _checked(self, x: Tensor) -> Tensor:
        if isinstance(self.manifold, Sphere) and x.shape[-1] != 3:
            raise ValueError(f"the sphere's heat kernel is for 3 dimensions, got {x.shape[-1]}: use Geodesic(Sphere())")
        return floating(x)

    def _deviation(self, t: Tensor, length: Tensor) -> Tensor:
        sigma = self.schedule.sigma(t).to(torch.float64)
        return along(sigma, length.double()).to(length.device).expand(length.shape)

    def _moved(self, x: Tensor, z: Tensor, deviation: Tensor) -> Tensor:
        """x moved by one draw of the kernel: the image of z. deviation () or shaped to broadcast over lengths of z."""
        z = self.manifold.tangent(x, z.to(x.dtype))
        r = self.manifold.length(z.double())
        held = r.clamp_min(_SMALLEST)
        rounds = 100 if x.dtype == torch.float64 else 2  # two leave 6e-6 of the angle at worst
        stretch = angle_of(self.kernel, held, deviation.to(r.device).expand(r.shape), rounds) / held
        return self.manifold.exp(x, (stretch * z).to(x.dtype))

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return normal_like(self.manifold.like_tangent(self._checked(x)), rng)

    def start(self, z: Tensor) -> Tensor:
        """The uniform point at z's quantile."""
        return self._moved(self.manifold.origin(self._checked(z)), z, torch.tensor(WIDEST, dtype=torch.float64))

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return self._moved(self._checked(x), z, self._deviation(t, self.manifold.length(z)))

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, noise_level(self.schedule, x_t, t)

    def _target(self, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        back = self.manifold.log(x_t, x)
        length = self.manifold.length(back.double())
        deviation = self._deviation(t, length)
        pull = -deviation * self.kernel.score(length.clamp_min(_SMALLEST), deviation) / length.clamp_min(_SMALLEST)
        return pull.to(back.dtype) * back

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """sigma times the gradient at x_t of the kernel's log-density seen from x."""
        return self._target(x, self.interpolate(x, z, t), t)

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        x_t = self.interpolate(x, z, t)
        wanted = self._target(x, x_t, t)
        answer = kept(answer.to(wanted.dtype), wanted.shape, t, weight)
        return mean_counted((self.manifold.tangent(x_t, answer) - wanted) ** 2, t, weight)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        answer = self.manifold.tangent(self._checked(x_t), answer.to(x_t.dtype)).double()
        # where the kernel is nearly uniform, 1e-12 is a meaningful length
        length = self.manifold.length(answer).clamp_min(1e-60)
        deviation = self._deviation(t, length)
        angle = angle_of_score(self.kernel, length / deviation, deviation)
        way = (angle / length * answer).to(x_t.dtype)
        stretch = (radius_of(self.kernel, angle, deviation) / angle).to(x_t.dtype)
        return Endpoints(self.manifold.exp(x_t, way), -stretch * self.manifold.velocity(x_t, way))

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        """Mixes the answers, which are vectors; points of a manifold have no straight line between them."""
        answer = lerp(self.target(weak.x, weak.z, t), self.target(strong.x, strong.z, t), w)
        return self.endpoints(answer, x_t, t)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        """To time s. With eta > 0 to less noise than sigma(s) first, and up again by a fresh draw of the kernel:
        heat kernels add in variance, so the law given the data is the kernel at sigma(s) for every eta (as in DDIM)."""
        if eta == 0:
            return self.interpolate(*ends, s)
        at_s, at_t = self._deviation(s, self.manifold.length(ends.z)), self._deviation(t, self.manifold.length(ends.z))
        fresh = (eta * at_s * (1 - (at_s / at_t) ** 2).clamp(0, 1).sqrt()).clamp_min(_SMALLEST)
        kept = (at_s**2 - fresh**2).clamp_min(_SMALLEST**2).sqrt()
        down = self._moved(ends.x, ends.z, kept)
        return self._moved(down, self.prior(down, rng), fresh)
