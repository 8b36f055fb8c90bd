r"""Log-likelihood of data under the probability flow, for tensors of any shape.

On the quarter circle y = x_t / hypot(alpha, sigma) moves by dy/da = -sin(a) x + cos(a) z =: v(y, a), and its density by
d log p(y)/da = -div v (Song 2021, eq. 39). Integrate from the data's angle to pure noise, where p is the unit normal.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import floating
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import along
from sfumato.diffusion.rng import Rng, normal_like, uniform_like


def log_likelihood(
    denoiser: Guess,
    x: Tensor,
    steps: int = 40,
    *,
    probes: int | None = None,
    rng: Rng = None,
    smallest: float = 1e-3,
    differentiable: bool = False,
    **condition: Any,
) -> Tensor:
    """Log-density of x (B, ...) in nats, (B,), by ``steps`` Runge-Kutta steps (4 calls each) in the angle.

    Args:
        probes: None takes the divergence exactly, one backward pass per coordinate (right for up to some hundred
            coordinates); a number takes that many random-sign probes (Hutchinson), fixed along the path.
        smallest: sigma / alpha at which the walk begins, in units of the data's spread; at pure data itself the noise
            is undefined. It blurs the density by that much.
        differentiable: keep the graph, so that gradients flow to x and to the network; without it the result has none.

    Raises:
        ValueError: steps or probes below 1.
    """
    if steps < 1 or (probes is not None and probes < 1):
        raise ValueError(f"steps and probes must be at least 1, got {steps} and {probes}")
    if len(x) == 0:
        raise ValueError("no rows: give at least one item")
    floating(x)
    x = x if differentiable else x.detach()
    schedule = denoiser.process.schedule
    ends = schedule.angle(torch.tensor([0.0, 1.0], dtype=torch.float64))
    first, last = max(float(ends[0]), math.atan(smallest)), float(ends[1])
    signs = None if probes is None else [normal_like(x, rng).sign() for _ in range(probes)]

    def slope(y: Tensor, angle: float) -> tuple[Tensor, Tensor]:
        where = torch.tensor(angle, dtype=torch.float64)
        t = schedule.at_angle(where).clamp(0, 1)
        with torch.enable_grad():
            y = y if y.requires_grad else y.detach().requires_grad_()
            found = denoiser(y * along(schedule.hypot(t), y), t, **condition)
            velocity = -where.sin() * found.x + where.cos() * found.z
            gain = divergence(velocity, y, signs, differentiable)
        return (velocity, gain) if differentiable else (velocity.detach(), gain.detach())

    angles = torch.linspace(first, last, steps + 1, dtype=torch.float64).tolist()
    t = schedule.at_angle(torch.tensor(first, dtype=torch.float64)).clamp(0, 1)
    # x is read as data at the smallest noise: its scale there is alpha
    scale = schedule.alpha(t) / schedule.hypot(t)
    y = along(scale, x) * x
    dims = x[0].numel()
    gained = x.new_full((len(x),), dims * math.log(float(scale)))
    for a, b in pairwise(angles):
        h = b - a
        k1, d1 = slope(y, a)
        k2, d2 = slope(y + h / 2 * k1, a + h / 2)
        k3, d3 = slope(y + h / 2 * k2, a + h / 2)
        k4, d4 = slope(y + h * k3, b)
        y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        gained = gained + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
    prior = -(y.flatten(1) ** 2).sum(1) / 2 - dims / 2 * math.log(2 * math.pi)
    return prior + gained


def divergence(velocity: Tensor, y: Tensor, signs: list[Tensor] | None = None, keep: bool = False) -> Tensor:
    """sum_i d velocity_i / d y_i per sample, (B,), of a velocity (B, ...) computed from y (B, ...), which requires grad.

    Args:
        signs: None takes it exactly, one backward pass per coordinate; else the mean over these random-sign probes
            (Hutchinson 1990), each shaped like y.
        keep: keep the graph of the result.
    """
    if not velocity.requires_grad:  # a constant
        return torch.zeros_like(velocity.flatten(1)[:, 0])

    def pulled_back(value: Tensor, by: Tensor | None = None) -> Tensor:
        return torch.autograd.grad(value, y, by, retain_graph=True, create_graph=keep, materialize_grads=True)[0]

    if signs is not None:
        return torch.stack([(pulled_back(velocity, sign) * sign).flatten(1).sum(1) for sign in signs]).mean(0)
    flat = velocity.flatten(1)
    total = torch.zeros_like(flat[:, 0])
    for i in range(flat.shape[1]):
        total = total + pulled_back(flat[:, i].sum()).flatten(1)[:, i]
    return total


def bits_per_dimension(log_density: Tensor, dims: int, bin_width: float = 1.0) -> Tensor:
    """Nats of density (B,) -> bits per dimension when the data was cut into bins of ``bin_width`` (in the data's unit)."""
    return -(log_density + dims * math.log(bin_width)) / (dims * math.log(2))


def dequantised_bits(
    denoiser: Guess,
    x: Tensor,
    bin_width: float,
    steps: int = 40,
    *,
    draws: int = 1,
    probes: int | None = None,
    rng: Rng = None,
    smallest: float = 1e-3,
    **condition: Any,
) -> Tensor:
    """Bits per dimension of discrete data x (B, ...), (B,): in expectation an upper bound of -log2 P(x) / dims.

    x lies at the centres of bins of width ``bin_width``, in x's own unit (for bytes scaled to [-1, 1], 2 / 255). The
    probability of x is the density's integral over its bin, which ``draws`` points uniform in the bin estimate; the
    logarithm of their mean density is the importance-weighted bound (Burda 2016, eq. 8; for dequantisation Ho 2019,
    Flow++, eq. 14). It is tight as ``draws`` grow, and for fine bins with a single draw (Theis 2016, eq. 5).

    Args:
        steps, probes, rng, smallest, condition: as for :func:`log_likelihood`, which runs ``draws`` times;
            ``smallest`` should lie well below the bin's width.

    Raises:
        ValueError: draws, steps or probes below 1; a bin width that is not positive.
    """
    if draws < 1 or not bin_width > 0:
        raise ValueError(f"draws must be at least 1 and bin_width positive, got {draws} and {bin_width}")
    densities = []
    for _ in range(draws):
        inside = x + bin_width * (uniform_like(x, rng) - 0.5).to(x.dtype)
        densities.append(
            log_likelihood(denoiser, inside, steps, probes=probes, rng=rng, smallest=smallest, **condition)
        )
    mean = torch.stack(densities).logsumexp(0) - math.log(draws)
    return bits_per_dimension(mean, x[0].numel(), bin_width)
