"""Grids: where to stop on the way from noise to data. Even steps of several measures, and one measured from the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.sample import Bound
from sfumato.diffusion.schedule import Schedule
from sfumato.diffusion.weights import mean_counted

Grid = Callable[[Schedule, int], Tensor]
"""schedule, number of steps n -> times (n + 1,) falling from 1 to 0, float64 on the CPU."""


def _steps(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    return steps


def uniform(schedule: Schedule, steps: int) -> Tensor:
    """Even steps in t."""
    return torch.linspace(1, 0, _steps(steps) + 1, dtype=torch.float64)


def cosine(schedule: Schedule, steps: int) -> Tensor:
    """Even steps of the angle atan2(sigma, alpha)."""
    ends = schedule.angle(torch.tensor([1.0, 0.0], dtype=torch.float64))
    angles = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, _steps(steps) + 1, dtype=torch.float64))
    return _from_one_to_zero(schedule.at_angle(angles))


def logsnr(schedule: Schedule, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Tensor:
    """A constant ratio of sigma / alpha from step to step between the two bounds, then straight to the end."""
    return karras(schedule, steps, sigma_min, sigma_max, rho=math.inf)


def karras(
    schedule: Schedule, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Even steps of (sigma / alpha)^(1 / rho) (EDM, Karras 2022, eq. 5), then one step to the end, if the schedule goes
    on below ``sigma_min``. Bounds are in units of the data's spread, and cut to the schedule's own range.

    Raises ValueError unless 0 < sigma_min < sigma_max and rho > 0.
    """
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min = {sigma_min:g}: must be above 0 and below sigma_max, {sigma_max:g}")
    if not rho > 0:
        raise ValueError(f"rho = {rho:g}: must be above 0")
    low, high = schedule.angle(torch.tensor([0.0, 1.0], dtype=torch.float64)).tan().tolist()
    sigma_max, count = min(sigma_max, high), _steps(steps)
    if sigma_min <= low * (1 + 1e-9):
        sigma_min, count = low, steps + 1
    u = torch.linspace(0, 1, max(count, 2), dtype=torch.float64)[:count]
    if math.isinf(rho):
        ratio = sigma_max * (sigma_min / sigma_max) ** u
    else:
        ratio = (sigma_max ** (1 / rho) + u * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    inside = schedule.at_angle(torch.atan(ratio)).clamp(0, 1)
    return _from_one_to_zero(torch.cat([inside, inside.new_zeros(1)])[: steps + 1])


@dataclass(frozen=True)
class ShiftedGrid:
    """``grid`` with its times t moved to k t / (1 + (k - 1) t): more steps at much noise where k > 1, at little where k < 1.

    On the straight schedule every stop has k times the noise for the signal, as SD3 shifts its time steps (Esser 2024,
    sec. 5.3.2), and :func:`uniform` shifted is uniform on ``Shifted(Linear(), k)``. The ends stay 1 and 0.

    Raises:
        ValueError: k is not above 0.
    """

    grid: Grid
    k: float

    def __post_init__(self) -> None:
        if not 0 < self.k < math.inf:
            raise ValueError(f"k = {self.k}: must be above 0")

    def __call__(self, schedule: Schedule, steps: int) -> Tensor:
        t = self.grid(schedule, steps)
        return _from_one_to_zero(self.k * t / (1 + (self.k - 1) * t))


def _from_one_to_zero(times: Tensor) -> Tensor:
    times = times.clone()
    times[0], times[-1] = 1.0, 0.0
    return times


@dataclass(frozen=True)
class Auto:
    """The grid with equal local error at every step, measured once from a denoiser by :func:`auto`.

    Args:
        angles: knots from noise to data, falling, in radians.
        progress: share of the steps spent before each knot, rising from 0 to 1.
    """

    angles: tuple[float, ...]
    progress: tuple[float, ...]

    def __call__(self, schedule: Schedule, steps: int) -> Tensor:
        angles, progress = (torch.tensor(knots, dtype=torch.float64) for knots in (self.angles, self.progress))
        ends = schedule.angle(torch.tensor([1.0, 0.0], dtype=torch.float64))
        first, last = _interpolate(ends, angles.flip(0), progress.flip(0))  # the part that this schedule walks
        place = torch.lerp(first, last, torch.linspace(0, 1, _steps(steps) + 1, dtype=torch.float64))
        left = torch.searchsorted(progress, place, right=True).sub(1).clamp(0, len(progress) - 2)
        share = (place - progress[left]) / (progress[left + 1] - progress[left])
        return _from_one_to_zero(schedule.at_angle(torch.lerp(angles[left], angles[left + 1], share)))


@torch.no_grad()
def auto(
    denoiser: Guess,
    z: Tensor,
    *,
    points: int = 48,
    power: float = 0.5,
    even: float = 0.2,
    finest: float = 0.0,
    weight: Tensor | None = None,
    **condition: Any,
) -> Auto:
    """Measure the grid on which every step makes the same local error: "constant relative error per step", provably.

    An Euler step of size h along the quarter circle errs by h^2/2 times the speed at which the guessed endpoints turn,
    e = |dx/dangle| / sin(angle). Equal errors want steps in proportion to e^(-power), power = 1/2 for an error of
    second order. The speed is measured along one walk of ``points`` calls for the noises z (K, ...), K about 16.

    Args:
        even: share of the steps spread evenly over the angle, which bounds the largest step where e is tiny.
        finest: sigma / alpha below which no step but the last one goes: the finest scale of the data, or the level
            below which a network was not trained. There its guesses jump about and would draw all the steps.
        weight: what counts of the numbers, and how much, as in a loss: padding is 0, and what is guessed there is not looked at.

    Source: constant-rate scheduling (arXiv 2411.12188), here with the solver's own error as the discrepancy.

    Raises:
        ValueError: states other than vectors.
    """
    process = denoiser.process
    if process.states != "vectors":
        raise ValueError(
            f"auto is measured on vectors, and the states of {type(process).__name__} are {process.states}"
        )
    guess, schedule = Bound.of(denoiser, condition), process.schedule
    ends = schedule.angle(torch.tensor([1.0, 0.0], dtype=torch.float64)).tolist()
    # half of the points see the angle evenly, half its logarithm, so that fine scales near the data are seen too
    end = max(ends[1], math.atan(finest))
    even_angles = torch.linspace(ends[0], max(end, 1e-3), points // 2, dtype=torch.float64)
    fine = torch.logspace(math.log10(0.3), math.log10(max(end, 3e-3)), points - points // 2, dtype=torch.float64)
    angles = torch.cat([even_angles, fine[fine < ends[0]]]).unique().flip(0)

    times = schedule.at_angle(angles).clamp(0, 1)
    x_t = process.start(z)
    guesses = []
    for t, s in pairwise(torch.cat([times, times.new_zeros(1)])):
        found = guess(x_t, t)
        guesses.append(found.x.cpu().double())
        x_t = process.step(found, x_t, t, s)
    counts = None if weight is None else weight.cpu()
    turned = torch.stack([mean_counted((b - a) ** 2, times[0], counts).mean().sqrt() for a, b in pairwise(guesses)])
    middle, width = (angles[:-1] + angles[1:]) / 2, angles[:-1] - angles[1:]
    speed = (turned / width / middle.sin()).clamp_min(1e-12)
    for _ in range(2):  # the measurement is noisy; steps should change smoothly
        speed = torch.exp(_smooth(speed.log()))
    density = speed**power
    knots = torch.linspace(ends[0], end, 257, dtype=torch.float64)
    inside = (knots[:-1] + knots[1:]) / 2
    density = _interpolate(inside, middle.flip(0), density.flip(0))
    density = (1 - even) * density / density.mean() + even
    progress = torch.cat([density.new_zeros(1), density.cumsum(0)]) / density.sum()
    return Auto(tuple(knots.tolist()), tuple(progress.tolist()))


def _smooth(values: Tensor) -> Tensor:
    padded = torch.cat([values[:1], values, values[-1:]])
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    right = torch.searchsorted(knots, x).clamp(1, len(knots) - 1)
    share = ((x - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)
    return torch.lerp(values[right - 1], values[right], share)
