r"""Solvers of the probability flow of Gaussian processes.

On the quarter circle, y = x_t / hypot(alpha, sigma) = cos(a) x + sin(a) z at angle a, and the flow is

    dy/da = -sin(a) x(a) + cos(a) z(a)

with x(a), z(a) the endpoints that the denoiser guesses along the way. If they stand still, one step of any length is
exact: that is Euler's method, known as DDIM. The solvers of higher order here let the guessed endpoints move along a
polynomial in the angle and integrate against sin and cos exactly. The angle, unlike log-SNR or sigma / alpha, is finite
at both ends, so the same solver serves a schedule that starts at pure noise and ends at pure data.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import blend, remembered
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.quadrature import gauss_legendre
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Solver, still
from sfumato.diffusion.schedule import Schedule


class Node(NamedTuple):
    """Endpoints guessed at a time."""

    t: Tensor
    ends: Endpoints


def follow(schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, *nodes: Node, cautious: int | None = None) -> Tensor:
    """x_s from x_t when the endpoints move along the polynomial in the angle through the given nodes.

    A step more than 4 times as long as the last one, which led from node ``cautious + 1`` to node ``cautious``, would
    extrapolate wildly: such rows use the nodes up to ``cautious`` alone. Each row for itself, they may walk other grids.
    """
    kept, *weights = _path((schedule, cautious), t, s, *(node.t for node in nodes))
    ends = [end for node in nodes for end in node.ends]
    return blend(kept, x_t, *chain.from_iterable(zip(weights, ends, strict=True)))


@remembered
def _path(owner: tuple[Schedule, int | None], t: Tensor, s: Tensor, *times: Tensor) -> tuple[Tensor, ...]:
    """Factors of :func:`follow`: on x_t, then on x and z of every node."""
    schedule, cautious = owner
    start, end = schedule.angle(t), schedule.angle(s)
    radius = schedule.hypot(s)
    nodes = torch.stack([schedule.angle(time) for time in times])
    weights = _weights(start, end, nodes)
    if cautious is not None and len(times) > cautious + 1:
        wild = ((end - start) / (nodes[cautious] - nodes[cautious + 1])).abs() > 4
        few = torch.zeros_like(weights)
        few[: cautious + 1] = _weights(start, end, nodes[: cautious + 1])
        weights = torch.where(wild, few, weights)
    return radius / schedule.hypot(t), *(weights * radius).flatten(0, 1).unbind()


def _weights(start: Tensor, end: Tensor, nodes: Tensor) -> Tensor:
    """The integrals of (-sin, cos) times Lagrange's polynomials through the angles ``nodes`` (N, ...): (N, 2, ...).

    Of nodes at one angle, as where a row stood still, only the first counts.
    """
    if len(nodes) == 1:  # the integral of a constant, without quadrature
        return torch.stack([end.cos() - start.cos(), end.sin() - start.sin()])[None]
    points, quadrature = (a.to(start.device).reshape(-1, *[1] * start.ndim) for a in gauss_legendre(10))
    angle = start + (end - start) * points
    apart = nodes[:, None] - nodes  # row j: of the polynomial that is 1 at node j and 0 at the others
    first = apart.new_ones(len(nodes), len(nodes)).triu().reshape(*apart.shape[:2], *[1] * start.ndim)
    factors = torch.where(apart == 0, first, (angle[:, None, None] - nodes) / apart)
    turning = torch.stack([-angle.sin(), angle.cos()], 1) * (quadrature * (end - start))[:, None]
    return (factors.prod(2)[:, :, None] * turning[:, None]).sum(0)


def adams(angles: Tensor, order: int, corrected: int = 0, always: bool = False) -> list[Tensor]:
    """What each step between stops at ``angles`` (n + 1,) adds of the guesses that it knows, the nearest first: (nodes, 2) for
    data and noise, on the quarter circle.

    Args:
        order: guesses that a step extrapolates through.
        corrected: guesses through which the step before is corrected with the one found at its end, which is then a part of
            this step; 0 or 1: none is. always: each step is corrected, otherwise the first one alone.
    """
    found: list[Tensor] = []
    pairs = len(angles) - 1
    for k in range(pairs):
        nodes = angles[: k + 1].flip(0)
        step = angles.new_zeros(k + 1, 2)
        step[:order] = _weights(angles[k], angles[k + 1], nodes[:order])
        if corrected > 1 and k and (always or k == 1):
            step[:corrected] += _weights(angles[k - 1], angles[k], nodes[:corrected])
            step[1 : order + 1] -= _weights(angles[k - 1], angles[k], nodes[1 : order + 1])
        found.append(step)
    return found


@remembered
def _arrived(schedule: Schedule, s: Tensor) -> tuple[Tensor]:
    """Where a step to s ends at pure data, and a denoiser cannot be asked for the noise any more: shaped like s."""
    return (schedule.angle(s) < 1e-6,)


def _all(where: Tensor | float) -> bool:
    return bool(where.all()) if isinstance(where, Tensor) else bool(where)


def _pick(where: Tensor | float, yes: Tensor, no: Tensor) -> Tensor:
    """``yes`` where true, else ``no``; one truth for all, or one for each of the first axes."""
    if not isinstance(where, Tensor):
        return yes if where else no
    return torch.where(where.to(yes.device).reshape(where.shape + (1,) * (yes.ndim - where.ndim)), yes, no)


@dataclass(frozen=True)
class Heun(Solver):
    """Heun's method (EDM, Karras 2022, alg. 1, here in the angle): two calls a step, order 2, Euler at the very end."""

    order: int = 2

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        schedule = guess.process.schedule
        here = Node(t, guess(x_t, t))
        x_s, (last,) = follow(schedule, x_t, t, s, here), _arrived(schedule, s)
        if _all(last):
            return x_s, None
        return _pick(last, x_s, follow(schedule, x_t, t, s, Node(s, guess(x_s, s)), here)), None


@dataclass(frozen=True)
class DPMpp2S(Solver):
    """DPM-Solver++(2S) (Lu 2022, arXiv 2211.01095, alg. 1, r = 1/2): two calls a step, order 2, Euler at the very end.

    The data is guessed in the middle of the step in log-SNR, and taken for that of the whole step. GenCast's step (Price et
    al. 2023, arXiv 2312.15796), with :class:`Churn` around it.
    """

    order: int = 2

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        process, first = guess.process, guess(x_t, t)
        x_s, (last,) = process.step(first, x_t, t, s, 0.0, rng), _arrived(process.schedule, s)
        if _all(last):
            return x_s, None
        middle = _between(process.schedule, t, s)
        x_m = still(x_t, process.step(first, x_t, t, middle, 0.0, rng), t, middle)
        x = guess(x_m, middle).x
        ends = Endpoints(x, process.noise_given(x, x_t, t))
        return _pick(last, x_s, process.step(ends, x_t, t, s, 0.0, rng)), None


def _between(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """The time in the middle of two: of their log-SNR, or where that is infinite of their angle."""
    half = (schedule.logsnr(t) + schedule.logsnr(s)) / 2
    finite = half.isfinite()
    middle = (schedule.angle(t) + schedule.angle(s)) / 2
    found = schedule.at_angle(torch.where(finite, torch.atan(torch.exp(-half.where(finite, 0) / 2)), middle))
    return torch.where(t == s, t, found)


@dataclass(frozen=True)
class DPMpp2M(Solver):
    """DPM-Solver++(2M) (Lu 2022, arXiv 2211.01095), one call a step, order 2, data extrapolated in log-SNR.

    The first step, and the last one to pure data, are of first order ("lower order final"). With ``eta`` above 0 each
    step renews part of the noise as :class:`Euler` does, and the weak order is 1 or better: fresh noise lets the network
    mend its earlier errors, which pays where it is little trained. Extrapolating through noise that is soon replaced
    overshoots: it fades with the share of the noise of the last guess that is left at the end of the step.
    """

    eta: float = 0.0

    @property
    def order(self) -> int:
        return 2 if self.eta == 0 else 1

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, rng: Rng) -> tuple[Tensor, Any]:
        process = guess.process
        x = found = guess(x_t, t).x
        if memory is not None:
            before, x_before = memory
            now, then = ahead((process.schedule, self.eta), before, t, s)
            x = blend(now, found, then, x_before)
        ends = Endpoints(x, process.noise_given(x, x_t, t))
        return process.step(ends, x_t, t, s, self.eta, rng), (t, found)


@remembered
def ahead(owner: tuple[Schedule, float], before: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Factors on the guesses at t and before it that extrapolate them, see :class:`DPMpp2M`."""
    schedule, eta = owner
    past, here, there = (schedule.logsnr(time) for time in (before, t, s))
    ratio = (there - here) / (2 * (here - past))  # 1 / (2 r) of the paper
    if eta != 0:  # the share of the noise kept in two steps, see StraightPath.renoise
        renewed = min(eta, 1.0) ** 2
        ratio = ratio * (1 + renewed * torch.expm1(past - here)) * (1 + renewed * torch.expm1(here - there))
    ratio = ratio.nan_to_num(0, 0, 0)
    return 1 + ratio, -ratio


@dataclass(frozen=True)
class Multistep(Solver):
    """Adams' methods on the guessed endpoints in the angle: ``ab`` and ``unipc`` below.

    One call a step. The start-up, where past guesses are missing, costs no accuracy: order 3 corrects its first step
    with the next call's answer, order 4 spends two more calls inside its first step.

    Args:
        order: global order of accuracy, 1 to 4.
        corrector: False extrapolates through the last ``order`` guesses (Adams-Bashforth). True extrapolates through
            one fewer and then corrects the step with the guess found at its end, which is kept for the next step, so
            that correcting costs no call (UniPC, Zhao 2023, arXiv 2302.04867, here with the angle as coordinate).

    Raises:
        ValueError: order outside 1..4, or a corrector of order 1.
    """

    order: int = 3
    corrector: bool = False

    def __post_init__(self) -> None:
        if not (1 + self.corrector) <= self.order <= 4:
            raise ValueError(f"order must be {1 + self.corrector} to 4, got {self.order}")

    def prepare(self, times: Tensor) -> tuple[None, tuple[Node, ...]]:
        return None, ()

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, rng: Rng) -> tuple[Tensor, Any]:
        schedule, (pending, past) = guess.process.schedule, memory
        (last,) = _arrived(schedule, s)
        here = Node(t, guess(x_t, t) if pending is None else pending)
        nodes = (here, *past)
        if not past and self.order == 4 and not _all(last):
            nodes = (self._middle(guess, x_t, t, s, here), here)
        used = nodes[: self.order - self.corrector]
        x_s = follow(schedule, x_t, t, s, *used, cautious=0)
        starting = not past and self.order >= 3
        if _all(last) or not (self.corrector or starting):
            return x_s, (None, nodes[:3])
        there = guess(x_s, s)
        corrected = follow(schedule, x_t, t, s, Node(s, there), *used, cautious=1)
        return _pick(last, x_s, corrected), (there, nodes[:3])

    def _middle(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, here: Node) -> Node:
        """One more node in the middle of the first step, accurate to third order: two calls."""
        schedule = guess.process.schedule
        middle = schedule.at_angle((schedule.angle(t) + schedule.angle(s)) / 2)
        first = Node(middle, guess(follow(schedule, x_t, t, middle, here), middle))
        return Node(middle, guess(follow(schedule, x_t, t, middle, first, here), middle))
