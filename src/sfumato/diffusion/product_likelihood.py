"""Log-densities of products: of the Gaussian parts given the clean ones, all at once or one after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import floating
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.likelihood import divergence
from sfumato.diffusion.process import Gaussian, along
from sfumato.diffusion.product import Clean, Product
from sfumato.diffusion.rng import Rng, normal_like


def product_log_likelihood(
    denoiser: Guess,
    x: Mapping[str, Tensor],
    steps: int = 40,
    *,
    order: Sequence[str] | None = None,
    probes: int | None = None,
    rng: Rng = None,
    smallest: float = 1e-3,
    differentiable: bool = False,
    **condition: Any,
) -> dict[str, Tensor]:
    """Log-density in nats of the Gaussian parts of x given its clean parts: part -> (B,); the sum is the joint's.

    Each part walks from its own smallest noise angle to its own largest, and the joint density changes along the way by
    the sum of the parts' divergences (the instantaneous change of variables of Song 2021, eq. 39, part by part). Any way
    through the plane of the parts' noise levels leads to the same sum:

    * ``order=None``: all parts together, ``steps`` Runge-Kutta steps of 4 calls. The share of a part is its own
      log-density if the parts are independent, and otherwise only a share.
    * ``order=("a", "b")``: first a turns to noise while b stays data, then b: the chain rule. The share of a is
      log p(a | b), that of b is log p(b). ``steps`` for each part.

    Args:
        x: part -> (B, ...). probes, rng, smallest, differentiable: as for :func:`~likelihood.log_likelihood`.

    Raises:
        ValueError: steps or probes below 1; a part neither Gaussian nor clean; an order that is not of all the parts.
    """
    if steps < 1 or (probes is not None and probes < 1):
        raise ValueError(f"steps and probes must be at least 1, got {steps} and {probes}")
    process: Product = denoiser.process
    moving: dict[str, Gaussian] = {}
    for name, part in process.parts:
        if isinstance(part, Gaussian):
            moving[name] = part
        elif not isinstance(part, Clean):
            raise ValueError(f"likelihood needs Gaussian or clean parts, and part {name!r} is {type(part).__name__}")
    if order is not None and sorted(order) != sorted(moving):
        raise ValueError(f"order must name each of {', '.join(moving)} once, got {', '.join(order)}")
    x = process.checked("x", x)
    for name in moving:
        if len(floating(x[name])) == 0:
            raise ValueError("no rows: give at least one item")
    x = x if differentiable else {name: value.detach() for name, value in x.items()}

    angles, width, y, gained = {}, {}, dict(x), {}
    for name, part in moving.items():
        ends = part.schedule.angle(torch.tensor([0.0, 1.0], dtype=torch.float64))
        first = max(float(ends[0]), math.atan(smallest))
        angles[name], width[name] = first, float(ends[1]) - first
        t = _time_at(part, first)
        scale = part.schedule.alpha(t) / part.schedule.hypot(t)  # x is read as data at the smallest noise
        y[name] = along(scale, x[name]) * x[name]
        gained[name] = x[name].new_full((len(x[name]),), x[name][0].numel() * math.log(float(scale)))
    signs = {
        name: None if probes is None else [normal_like(x[name], rng).sign() for _ in range(probes)] for name in moving
    }

    def slope(at: dict[str, Tensor], group: Sequence[str], u: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """d/du of y and of the log-density for the parts of the group, u in [0, 1] of their ways."""
        here = {name: angles[name] + (u * width[name] if name in group else 0.0) for name in moving}
        t = {name: _time_at(moving[name], angle) for name, angle in here.items()}
        velocity, gain = {}, {}
        with torch.enable_grad():
            at = {**at, **{n: at[n] if at[n].requires_grad else at[n].detach().requires_grad_() for n in group}}
            x_t = {n: along(moving[n].schedule.hypot(t[n]), v) * v if n in moving else v for n, v in at.items()}
            found = denoiser(x_t, t, **condition)
            for name in group:
                moved = width[name] * (math.cos(here[name]) * found.z[name] - math.sin(here[name]) * found.x[name])
                velocity[name], gain[name] = moved, divergence(moved, at[name], signs[name], differentiable)
        if differentiable:
            return velocity, gain
        return ({n: v.detach() for n, v in each.items()} for each in (velocity, gain))  # type: ignore[return-value]

    def plus(a: dict[str, Tensor], h: float, b: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + h * b[name] if name in b else value for name, value in a.items()}

    h = 1 / steps
    for group in [list(moving)] if order is None else [[name] for name in order]:
        for i in range(steps):
            k1, d1 = slope(y, group, i * h)
            k2, d2 = slope(plus(y, h / 2, k1), group, (i + 0.5) * h)
            k3, d3 = slope(plus(y, h / 2, k2), group, (i + 0.5) * h)
            k4, d4 = slope(plus(y, h, k3), group, (i + 1) * h)
            for weight, k, d in ((1, k1, d1), (2, k2, d2), (2, k3, d3), (1, k4, d4)):
                y, gained = plus(y, weight * h / 6, k), plus(gained, weight * h / 6, d)
        angles.update({name: angles[name] + width[name] for name in group})
    return {name: gained[name] - (y[name].flatten(1) ** 2 / 2 + math.log(2 * math.pi) / 2).sum(1) for name in moving}


def _time_at(part: Gaussian, angle: float) -> Tensor:
    return part.schedule.at_angle(torch.tensor(angle, dtype=torch.float64)).clamp(0, 1)
