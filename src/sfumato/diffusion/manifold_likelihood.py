r"""Log-likelihood of points of a manifold under the probability flow of a Geodesic or a Heat process.

Points move by dx/du = v(x, u) and the logarithm of their density by -div v (the instantaneous change of variables of
Chen 2018; on manifolds Mathieu & Nickel 2020, prop. 2; De Bortoli 2022, sec. 3.3):

    Geodesic    u is the fraction f of the way to the noise, v the answer itself
    Heat        u is sigma, v = -sigma score, which is minus the answer (per unit of sigma^2: minus half the score)

Integrated from the data to the uniform law, whose log-density is minus the logarithm of the volume. Densities are with
respect to the volume in which tangent coordinates have unit length, so for data much narrower than a radian they are
ordinary densities in radians: a circle has volume 2 pi, rotations have 8 pi^2, the sphere in three dimensions has 4 pi.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import floating
from sfumato.diffusion.denoiser import Denoiser, Guess
from sfumato.diffusion.geodesic import Geodesic
from sfumato.diffusion.heat import Heat
from sfumato.diffusion.heat_quantile import branch_end
from sfumato.diffusion.likelihood import divergence
from sfumato.diffusion.manifold import SO3, Manifold, Sphere, Torus, shorten
from sfumato.diffusion.rng import Rng, normal_like


def log_volume(manifold: Manifold, x: Tensor) -> float:
    """Logarithm of the volume of the manifold that one sample of x (B, ..., *point) lives on.

    Per angle 2 pi; per rotation 8 pi^2; per direction in n dimensions the area of the unit sphere, 4 pi for n = 3.

    Raises:
        TypeError: an unknown manifold.
    """
    if isinstance(manifold, Torus):
        return x[0].numel() * math.log(2 * math.pi)
    if isinstance(manifold, SO3):
        return x[0].numel() // 9 * math.log(8 * math.pi**2)
    if isinstance(manifold, Sphere):
        n = x.shape[-1]
        return x[0].numel() // n * (math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2))
    raise TypeError(f"the volume of {manifold!r} is not known: use Torus(), SO3() or Sphere()")


def manifold_log_likelihood(
    denoiser: Guess,
    x: Tensor,
    steps: int = 40,
    *,
    smallest: float = 1e-3,
    probes: int | None = None,
    rng: Rng = None,
    differentiable: bool = False,
    **condition: Any,
) -> Tensor:
    """Log-density in nats, (B,), of the points x (B, ..., *point), jointly over all points of a sample.

    With respect to the Riemannian volume of :func:`log_volume`: total 2 pi per angle, 8 pi^2 per rotation, 4 pi per
    direction. By ``steps`` Runge-Kutta steps of order 4 (4 calls each) in charts around the current points (Munthe-Kaas
    1998), even in the schedule's angle, as in :func:`~likelihood.log_likelihood`.

    Args:
        smallest: sigma / alpha at which the walk begins, if the schedule begins below it: for Heat sigma in radians,
            for Geodesic very nearly the fraction of the way. It blurs the density by that much.
        probes: None takes the divergence exactly, one backward pass per coordinate (right for up to some hundred
            coordinates); a number takes that many random-sign probes (Hutchinson), fixed along the path.
        differentiable: keep the graph, so that gradients flow to x and to the network; without it the result has none.

    Answers longer than any that the process has are held as in sampling, so this is the density of the samples.

    Raises:
        ValueError: steps or probes below 1; gradients through guessed endpoints of Heat, whose second derivatives are
            not known (a Denoiser, which gives its bare answer, has them).
        TypeError: a process that is neither Geodesic nor Heat.
    """
    if steps < 1 or (probes is not None and probes < 1):
        raise ValueError(f"steps and probes must be at least 1, got {steps} and {probes}")
    if len(x) == 0:
        raise ValueError("no rows: give at least one item")
    floating(x)
    process = denoiser.process
    if not isinstance(process, Geodesic | Heat):
        raise TypeError(f"the process must be Geodesic or Heat, got {type(process).__name__}: see log_likelihood")
    if differentiable and isinstance(process, Heat) and not isinstance(denoiser, Denoiser):
        raise ValueError(
            "gradients of Heat's likelihood need the bare answer: pass a Denoiser, or differentiable=False"
        )
    manifold = process.manifold
    x = x if differentiable else x.detach()
    like = manifold.like_tangent(x)
    signs = None if probes is None else [normal_like(like, rng).sign().to(x.dtype) for _ in range(probes)]
    ends = process.schedule.angle(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    first, last = max(ends[0], math.atan(smallest)), ends[1]

    def slope(x: Tensor, moved: Tensor, angle: float) -> tuple[Tensor, Tensor]:
        """Rates of the chart's coordinates and of the log-density at the point ``moved`` from x."""
        with torch.enable_grad():
            point = chart(manifold, x, moved)
            # to first order exp's coordinates neither stretch nor turn: the plain divergence in them is the manifold's
            shift = torch.zeros_like(moved).requires_grad_()
            near = manifold.exp(point, manifold.tangent(point, shift))
            t = process.schedule.at_angle(torch.tensor(angle, dtype=torch.float64)).clamp(0, 1)
            velocity = pace(process, angle) * answered(denoiser, near, t, **condition)
            gain = divergence(velocity, shift, signs, differentiable)
            rate = pulled(manifold, x, moved, point, velocity)
        return (rate, gain) if differentiable else (rate.detach(), gain.detach())

    h = (last - first) / steps
    gained = x.new_zeros(len(x))
    for i in range(steps):
        angle = first + i * h
        k1, d1 = slope(x, torch.zeros_like(like), angle)
        k2, d2 = slope(x, h / 2 * k1, angle + h / 2)
        k3, d3 = slope(x, h / 2 * k2, angle + h / 2)
        k4, d4 = slope(x, h * k3, angle + h)
        x = chart(manifold, x, h / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        gained = gained + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    return gained - log_volume(manifold, x)


# ---- the flow --------------------------------------------------------------------------------------------------------


def pace(process: Geodesic | Heat, angle: float) -> float:
    """What the answer is multiplied by to be the velocity per radian of the schedule's angle."""
    if isinstance(process, Geodesic):  # df, for f = sigma / (alpha + sigma)
        return 1 / (math.sin(angle) + math.cos(angle)) ** 2
    return -1 / math.cos(angle) ** 2  # dsigma, for sigma = tan(angle)


def answered(denoiser: Guess, x_t: Tensor, t: Tensor, **condition: Any) -> Tensor:
    """The answer as the sampler understands it: tangent, and no longer than any that the process has."""
    process = denoiser.process
    if not isinstance(denoiser, Denoiser):
        found = denoiser(x_t, t, **condition)
        answer: Tensor = process.target(found.x, found.z, t)
        return answer
    answer = process.manifold.tangent(x_t, denoiser.answer(x_t, t, **condition).to(x_t.dtype))
    if isinstance(process, Geodesic):
        return shorten(process.manifold, answer)
    sigma = process.schedule.sigma(t).double().reshape(1)
    longest = float(-sigma * process.kernel.score(branch_end(process.kernel, sigma), sigma))
    return answer * (longest / process.manifold.length(answer).clamp_min(longest))


# ---- charts ----------------------------------------------------------------------------------------------------------


def chart(manifold: Manifold, x: Tensor, moved: Tensor) -> Tensor:
    """The point at the coordinates ``moved``, a tangent vector at x: exp, or on the sphere the central projection."""
    return manifold.project(x + moved) if isinstance(manifold, Sphere) else manifold.exp(x, moved)


def pulled(manifold: Manifold, x: Tensor, moved: Tensor, point: Tensor, velocity: Tensor) -> Tensor:
    """The rate of the chart's coordinates at which ``point`` has this velocity."""
    if isinstance(manifold, Sphere):  # moved = point / (x . point) - x
        cosine = (x * point).sum(-1, keepdim=True)
        return (velocity - (x * velocity).sum(-1, keepdim=True) / cosine * point) / cosine
    if isinstance(manifold, SO3):  # inverse of exp's derivative up to |moved|^4, one order more than the steps have
        turned = torch.linalg.cross(moved, velocity)
        return velocity + turned / 2 + torch.linalg.cross(moved, turned) / 12
    return velocity
