r"""Solvers that learn: where the steps stop and how far guesses are extrapolated, fitted to one denoiser.

A step of :class:`Fitted` from angle a to b lets both guessed endpoints stand at an extrapolation of their own,

    y(b) = y(a) + (cos b - cos a) X + (sin b - sin a) Z,    X = x_0 + sum_i f_i (x_0 - x_i),    Z likewise with g_i,

y being x_t on the quarter circle (``flow_solvers.py``), x_0, z_0 the guess at a and x_i, z_i the last two before it. Euler,
Adams' methods with and without corrector (ab2, ab3, unipc) and DPM-Solver++(2M) are all of this form: :func:`starts` are the
steps they would take. From the best of these :func:`fit_solver` goes on to the stops and factors that bring a few noises
nearest to where the model's own fine walk brings them. A dozen numbers are fitted, so a few dozen noises are enough; others
check them.

The idea is that of S4S (Frankel 2025, arXiv 2502.17423: coefficients and times of a linear multistep method learned from the
ends of fine walks); here the coefficients keep the first order (they vanish with the step), and the numbers are found by a
damped Gauss-Newton method without any gradient of the network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import blend, remembered
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.flow_solvers import adams, ahead
from sfumato.diffusion.grids import Grid, cosine, uniform
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Solver, sample
from sfumato.diffusion.schedule import Schedule
from sfumato.diffusion.solvers import ab

PAST = 2
"""Guesses before the present one that a step looks at."""
Factors = tuple[tuple[float, float], ...]
"""Of one step, for each of the last guesses, the nearest first: how far the data and the noise are extrapolated from it."""


@dataclass(frozen=True)
class Fitted(Solver):
    """As many steps as it was fitted for, between stops of its own, with factors of extrapolation of its own.

    Args:
        angles: the stops (n + 1,), falling from noise to data, in radians.
        factors: of each step (n), those of the last guesses: none in the first step, one in the second, then two.

    Raises:
        ValueError: angles that do not fall, or factors that do not fit them.
    """

    angles: tuple[float, ...]
    factors: tuple[Factors, ...]

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in zip(self.angles, self.angles[1:], strict=False))
        if len(self.angles) < 2 or not falls or not torch.tensor(self.angles).isfinite().all():
            raise ValueError(f"angles = {self.angles}: two or more that fall")
        if [len(each) for each in self.factors] != [min(k, PAST) for k in range(self.steps)]:
            raise ValueError(f"{self.steps} steps want factors of 0, 1, 2, 2, ... past guesses, a pair each")

    @property
    def order(self) -> int:
        """Nothing more is promised of numbers that were fitted."""
        return 1

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        return len(self.angles) - 1

    def grid(self, schedule: Schedule, steps: int) -> Tensor:
        """Its stops, as times (n + 1,) of a schedule. Raises ValueError for another number of steps."""
        if steps != self.steps:
            raise ValueError(f"steps = {steps}: it was fitted for {self.steps}")
        times = schedule.at_angle(torch.tensor(self.angles, dtype=torch.float64)).clamp(0, 1)
        times[0], times[-1] = 1.0, 0.0
        return times

    def prepare(self, times: Any) -> tuple[int, tuple[Any, ...]]:
        if len(times) != self.steps + 1:
            raise ValueError(f"{len(times) - 1} steps: this solver was fitted for {self.steps}")
        return 0, ()

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, rng: Rng) -> tuple[Tensor, Any]:
        number, past = memory
        here = guess(x_t, t)
        kept, *weights = _weights((guess.process.schedule, self.factors[number]), t, s)
        ends = [end for each in (here, *past) for end in each]
        x_s = blend(kept, x_t, *(value for pair in zip(weights, ends, strict=True) for value in pair))
        return x_s, (number + 1, (here, *past)[:PAST])


@remembered
def _weights(owner: tuple[Schedule, Factors], t: Tensor, s: Tensor) -> tuple[Tensor, ...]:
    """Factors on x_t, then on x and z of the guess at t and of those before it."""
    schedule, factors = owner
    start, end, radius = schedule.angle(t), schedule.angle(s), schedule.hypot(s)
    turn = radius * (end.cos() - start.cos()), radius * (end.sin() - start.sin())
    here = [way * (1 + sum(pair[i] for pair in factors)) for i, way in enumerate(turn)]
    before = [-way * pair[i] for pair in factors for i, way in enumerate(turn)]
    return radius / schedule.hypot(t), *here, *before


# ---- where it begins -------------------------------------------------------------------------------------------------


def starts(schedule: Schedule, steps: int, grids: Mapping[str, Grid]) -> dict[str, Fitted]:
    """What the fixed solvers do in so many steps on these grids, "name, grid" -> as a :class:`Fitted`."""
    found = {}
    for name, grid in grids.items():
        times = grid(schedule, steps)
        angles = schedule.angle(times)
        for solver, order, corrected, always in (("ab2", 2, 0, False), ("ab3", 3, 2, False), ("unipc", 2, 3, True)):
            found[f"{solver}, {name}"] = _as_fitted(angles, adams(angles, order, corrected, always))
        found[f"dpmpp_2m, {name}"] = _dpmpp_2m(schedule, times)
    return found


def _as_fitted(angles: Tensor, weights: Sequence[Tensor]) -> Fitted:
    """From the weights of each step on its guesses, (nodes, 2), the nearest first."""
    factors = [[tuple(pair) for pair in (-each[1:] / each.sum(0)).tolist()] for each in weights]
    padded = [tuple((*own, (0.0, 0.0), (0.0, 0.0))[: min(k, PAST)]) for k, own in enumerate(factors)]
    return Fitted(tuple(angles.tolist()), tuple(padded))


def _dpmpp_2m(schedule: Schedule, times: Tensor) -> Fitted:
    """Its extrapolated data, with the noise that belongs to it, moves x_t by (cos b - sin b cos a / sin a) of what is added."""
    angles, factors = schedule.angle(times), []
    for k in range(len(times) - 1):
        a, b = angles[k], angles[k + 1]
        ratio = torch.zeros((), dtype=torch.float64)
        if k:
            ratio = ahead((schedule, 0.0), times[k - 1], times[k], times[k + 1])[0] - 1
        own = ratio * (b.cos() - b.sin() * a.cos() / a.sin()) / (b.cos() - a.cos())
        factors.append(((float(own), 0.0), (0.0, 0.0))[: min(k, PAST)])
    return Fitted(tuple(angles.tolist()), tuple(factors))


# ---- the numbers, and back -------------------------------------------------------------------------------------------


def _numbers(solver: Fitted) -> Tensor:
    """What is fitted: logarithms of the steps' widths, then the factors. (P,) float64."""
    widths = -torch.tensor(solver.angles, dtype=torch.float64).diff()
    flat = [value for each in solver.factors for pair in each for value in pair]
    return torch.cat([widths.log(), torch.tensor(flat, dtype=torch.float64)])


def _solver(numbers: Tensor, like: Fitted) -> Fitted:
    """The solver of these numbers, with the ends and the steps of ``like``."""
    first, last, n = like.angles[0], like.angles[-1], like.steps
    shares = numbers[:n].softmax(0) + 1e-9  # so that no two stops are ever one
    inner = first + (last - first) * (shares / shares.sum()).cumsum(0)[:-1]
    pairs = [(a, b) for a, b in numbers[n:].reshape(-1, 2).tolist()]
    factors = []
    for each in like.factors:
        factors.append(tuple(pairs[: len(each)]))
        pairs = pairs[len(each) :]
    return Fitted((first, *inner.tolist(), last), tuple(factors))


# ---- fitting ---------------------------------------------------------------------------------------------------------


class Noises(NamedTuple):
    """A few noises, and where the fine walk brings them.

    Attributes:
        drawn: solver -> the samples (K, ...) of these noises, the same each time.
        truth: (K, ...).
    """

    drawn: Callable[[Fitted], Tensor]
    truth: Tensor

    def away(self, solver: Fitted) -> Tensor:
        """How far its samples lie from the truth, (K, D) float64."""
        return (self.drawn(solver).double() - self.truth.double()).flatten(1).cpu()


class Fit(NamedTuple):
    """What :func:`fit_solver` found.

    Attributes:
        solver: the best one, by the noises it was not fitted to.
        start: the fixed solver and grid that it began with.
        error, before: root mean square of a sample's distance to the fine walk, mean over the checking noises: of the solver,
            and of its start.
        doubt: standard error of their difference, from the checking noises.
        walks: how many were made over the fitting noises.
    """

    solver: Fitted
    start: str
    error: float
    before: float
    doubt: float
    walks: int

    @property
    def better(self) -> bool:
        """Whether fitting was worth it: nearer by more than chance makes it."""
        return self.before - self.error > self.doubt


def noises(denoiser: Guess, z: Tensor, fine: int = 64, **condition: Any) -> Noises:
    """The noises z (K, ...) of a denoiser, with the end of its walk of ``fine`` steps of ab3 on the cosine grid."""
    schedule = denoiser.process.schedule
    truth = sample(denoiser, z, cosine(schedule, fine), ab(3), **condition)
    return Noises(lambda solver: sample(denoiser, z, solver.grid(schedule, solver.steps), solver, **condition), truth)


def fit_solver(
    own: Noises,
    check: Noises,
    known: Mapping[str, Fitted],
    walks: int = 400,
    enough: Callable[[], bool] = lambda: False,
) -> Fit:
    """The best solver of the form of :class:`Fitted` for these noises, from the best of the known ones.

    Args:
        own, check: noises to fit to, some 64, and others, to tell what was found from what happened to fit.
        known: see :func:`starts`.
        walks: over the fitting noises, at most. The known ones are tried on the others, so the start is at its best there.
        enough: asked before each walk; where it says so, what was found so far is the answer.

    Raises:
        ValueError: nothing to begin with, or samples that are not finite wherever it begins.
    """
    if not known:
        raise ValueError("nothing to begin with")
    tried = {name: _rows(check.away(solver)) for name, solver in known.items()}
    order = sorted(tried, key=lambda name: _mean(tried[name]))
    start = reached = tried[order[0]]
    if _mean(start) == float("inf"):
        raise ValueError("the samples of all known solvers are not finite")
    best, walked = known[order[0]], 0
    for name in order[:BEGINNINGS]:  # the nearest start does not always lead furthest
        if walked >= walks:
            break
        descent = _Descent(own, known[name], walks - walked, enough)
        for solver in descent:
            now = _rows(check.away(solver))
            if _mean(now) < _mean(reached):
                best, reached = solver, now
        walked += descent.walks
    doubt = float((start - reached).std() / len(start) ** 0.5) if len(start) > 1 else float("inf")
    return Fit(best, order[0], _mean(reached), _mean(start), doubt, walked)


def _rows(away: Tensor) -> Tensor:
    """Root mean square of each row, (K,)."""
    return away.pow(2).mean(1).sqrt()


def _mean(rows: Tensor) -> float:
    """Of the rows; infinite where one is not finite."""
    mean = float(rows.mean())
    return mean if mean == mean else float("inf")


def _cost(away: Tensor) -> float:
    return _mean(_rows(away))


class _Descent:
    """Levenberg and Marquardt's method on the mean of the rows' root mean squares. Iterated: the better solvers, in turn.

    The slopes are differences over one walk for each number, and between these Broyden's update (1965, Mathematics of
    Computation 19) learns them from the steps that are tried, at one walk each. Rows are weighted by the inverse of their
    root mean square, so that the sum of squares is the mean wanted, and few noises that end elsewhere do not decide all.
    """

    def __init__(self, own: Noises, solver: Fitted, walks: int, enough: Callable[[], bool]):
        self.own, self.like, self.limit, self.enough = own, solver, walks, enough
        self.walks, self.damping, self.slopes = 0, 0.03, torch.empty(0)
        self.numbers = _numbers(solver)
        self.away = self._walk(self.numbers)
        self.cost = _cost(self.away)
        self.age = 0
        """Steps tried since the slopes were measured."""

    def __iter__(self) -> Any:
        while not self.over():
            if not self.age and not self._measure():
                return
            if self._advance():
                yield _solver(self.numbers, self.like)
                self.age = 0 if self.age >= 8 else self.age
            elif self.age <= TRIES:  # the slopes were fresh, and no step of any length is better
                return
            else:
                self.age = 0

    def over(self) -> bool:
        return self.walks >= self.limit or self.enough()

    def _walk(self, numbers: Tensor) -> Tensor:
        self.walks += 1
        return self.own.away(_solver(numbers, self.like))

    def _measure(self, width: float = 0.03) -> bool:
        """The slopes (K D, P); False where the walks do not suffice for that."""
        columns = []
        if self.walks + len(self.numbers) > self.limit:
            return False
        for i in range(len(self.numbers)):
            if self.enough():
                return False
            moved = self.numbers.clone()
            moved[i] += width
            columns.append(((self._walk(moved) - self.away) / width).flatten())
        self.slopes = torch.stack(columns, 1).nan_to_num(0, 0, 0)
        return True

    def _advance(self) -> bool:
        """Try up to ``TRIES`` steps, each shorter; take the first that is better."""
        for _ in range(TRIES):
            if self.over():
                return False
            moved = self.numbers - self._step()
            away = self._walk(moved)
            cost, change = _cost(away), moved - self.numbers
            self.age += 1
            if cost < float("inf"):
                surprise = (away - self.away).flatten() - self.slopes @ change
                self.slopes = self.slopes + torch.outer(surprise, change) / (change @ change).clamp_min(1e-12)
            if cost < self.cost * (1 - 1e-4):
                self.numbers, self.away, self.cost = moved, away, cost
                self.damping = max(self.damping / 3, 1e-4)
                return True
            self.damping *= 4
        return False

    def _step(self) -> Tensor:
        rows = _rows(self.away)
        weights = (rows + 0.25 * rows.mean()).rsqrt()[:, None].expand_as(self.away).reshape(-1, 1)
        slopes, away = self.slopes * weights, self.away.reshape(-1, 1) * weights
        square = slopes.T @ slopes
        diagonal = square.diagonal() + 1e-4 * square.diagonal().max() + 1e-12
        step: Tensor = torch.linalg.solve(square + self.damping * diagonal.diag(), (slopes.T @ away)[:, 0])
        return step.clamp(-0.7, 0.7)


BEGINNINGS = 3
"""Known solvers that it goes on from, as long as there are walks left."""
TRIES = 4
"""Steps that are tried with the same slopes before they are measured anew."""
GRIDS: dict[str, Grid] = {"cosine": cosine, "uniform": uniform}
"""Grids that fitting begins with, besides one that was measured."""
