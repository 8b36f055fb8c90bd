"""Weak error of stochastic solvers on mixture data, without Monte Carlo.

What a chain makes of the mixture on average, E f(x_0), obeys the backward recursion u_t(x) = E u_s(step from x), with
u_0 = f. It is carried on an even grid in x: the mean over the step's one normal draw by Gauss-Hermite quadrature, the
value between grid points by a polynomial through the six nearest. At t = 1 it meets the exact density of x_1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.schedule import Schedule
from tests.laws.orders import F64, MIXTURE, grid, mixture
from tests.laws.worlds import scalar

REACH = 9.0
"""Half the width of the grid, in standard deviations of x_1."""


def functions(x: Tensor) -> Tensor:
    """What is averaged: (N,) -> (N, 5). Moments, and both halves of the characteristic function."""
    return torch.stack([x, x**2, (2 * x).cos(), (2 * x).sin(), (4 * x).cos()], 1)


def gauss_hermite(points: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights for the mean over a standard normal: (points,), (points,)."""
    off = torch.arange(1, points, dtype=F64).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, vectors[0] ** 2


def between(values: Tensor, x: Tensor, half: float) -> Tensor:
    """values (N, F) on an even grid over [-half, half] -> values at x (M,), (M, F)."""
    place = ((x + half) / (2 * half) * (len(values) - 1)).clamp(0, len(values) - 1)
    left = (place.long() - 2).clamp(0, len(values) - 6)
    away = place - left
    out = torch.zeros(len(x), values.shape[1], dtype=F64)
    for j in range(6):
        share = torch.ones_like(away)
        for i in range(6):
            if i != j:
                share = share * (away - i) / (j - i)
        out += share[:, None] * values[left + j]
    return out


class Given:
    """In place of random numbers: the nodes of a quadrature, for the one draw of a step."""

    def __init__(self, numbers: Tensor) -> None:
        self.numbers, self.draws = numbers, 0

    def normal(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        self.draws += 1
        return self.numbers.reshape(tuple(shape)).to(dtype)


def weak_error(solver: Any, schedule: Schedule, times: Tensor, points: int = 1201, nodes: int = 24) -> float:
    """Root-mean-square error in the means of the ``functions`` at t = 0, started from the exact density at t = 1."""
    half = REACH * float(schedule.hypot(scalar(1.0)))
    x = torch.linspace(-half, half, points, dtype=F64)
    noise, weights = gauss_hermite(nodes)
    values, memory = functions(x), solver.prepare(times)
    for t, s in reversed(list(pairwise(times))):
        given: Any = Given(noise.repeat(points))
        moved, _ = solver.step(mixture(schedule), x.repeat_interleave(nodes)[:, None], t, s, memory, given)
        assert given.draws <= 1
        values = (between(values, moved[:, 0], half).reshape(points, nodes, -1) * weights[:, None]).sum(1)

    def mean_at(time: float, function: Any) -> Tensor:
        alpha, sigma = schedule.alpha(scalar(time)), schedule.sigma(scalar(time))
        total = torch.zeros(1, dtype=F64)
        many, shares = gauss_hermite(80)
        for share, middle, deviation in zip(*MIXTURE, strict=True):
            at = alpha * middle + (alpha**2 * deviation**2 + sigma**2).sqrt() * many
            total = total + share * (shares[:, None] * function(at)).sum(0)
        return total

    found, true = mean_at(1.0, lambda at: between(values, at, half)), mean_at(0.0, functions)
    return float((found - true).pow(2).mean().sqrt())


def weak_curve(solver: Any, schedule: Schedule, name: str, counts: Sequence[int]) -> list[float]:
    """Weak errors on a grid by name, for numbers of steps."""
    return [weak_error(solver, schedule, grid(name, schedule, n)) for n in counts]
