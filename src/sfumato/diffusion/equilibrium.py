r"""Equilibrium matching (Wang & Du 2025, arXiv 2510.02300): one field without time, sampled by descent until it vanishes.

The network is not told how much noise there is. It learns the mean over all times of the way from data to noise,

    f(y) = E[ c(t) (z - x) | x_t = y ],      x_t = (1 - t) x + t z,

where c(t) is constant far from the data and falls to 0 on the last stretch, so that f points away from the data and
vanishes on it. Sampling is gradient descent on f from noise, and a sample that has arrived stays where it is:

    loss(Denoiser(network, Equilibrium()), x, t)             # training: the same loss, t uniform
    x, steps, residual = descend(denoiser, z)                # each sample takes as many steps as it needs

What the data look like decides how well this works. Where x_t betrays its own t (separate points, or data in few of
many dimensions) f is about the flow's velocity times c. Where it does not (dense data in few dimensions), f is an average
over times, and long descent gathers the samples at the points where f is 0 instead of spreading them over the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import Endpoints, States, along, lerp
from sfumato.diffusion.rng import Rng, normal_like
from sfumato.diffusion.sample import Solver
from sfumato.diffusion.schedule import Linear
from sfumato.diffusion.weights import kept, mean_counted

_EARLIEST = 1e-6  # c(0) = 0 says nothing about the noise: below this time the answer is read as if it were this time


@dataclass(frozen=True)
class Equilibrium:
    """x_t = (1 - t) x + t z with normal noise z, and the answer c(t) (z - x), for tensors of any shape (B, ...).

    c(t) = scale * min(1, t / cut): the truncated decay of the paper, whose a is 1 - cut.

    Args:
        cut: time below which the field decays; the paper's best is 0.2.
        scale: size of the field far from the data, in units of z - x; the paper's best is 4.

    Data is expected at about unit variance. The network is shown x_t as it is, and level 0 whatever the time.

    Raises:
        ValueError: cut outside (0, 1], or a scale that is not positive and finite.
    """

    cut: float = 0.2
    scale: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.cut <= 1:
            raise ValueError(f"cut must be above 0 and at most 1, got {self.cut}: 0.2 is the paper's")
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {self.scale}: 4 is the paper's")

    finest: ClassVar[float] = 0.0
    states: ClassVar[States] = "vectors"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "descent", "eta": 0.0}

    @property
    def schedule(self) -> Linear:
        """The straight line: what grids and solvers ask for."""
        return Linear()

    def strength(self, t: Tensor) -> Tensor:
        """c(t), shaped like t."""
        return self.scale * (t / self.cut).clamp(max=1)

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return normal_like(x, rng)

    def start(self, z: Tensor) -> Tensor:
        return z

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return along(1 - t, x) * x + along(t, x) * z

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, torch.zeros(len(x_t), device=x_t.device)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return along(self.strength(t), x) * (z - x)

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Mean squared error of the answer per sample, (B,)."""
        answer = kept(answer.to(x.dtype), x.shape, t, weight)
        return mean_counted((answer - self.target(x, z, t)) ** 2, t, weight)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        """The ends of the straight path through x_t if the time is known to be t: its velocity is answer / c(t)."""
        velocity = answer.to(x_t.dtype) * along(1 / self.strength(t.clamp_min(_EARLIEST)), x_t)
        return Endpoints(x_t - along(t, x_t) * velocity, x_t + along(1 - t, x_t) * velocity)

    def noise_given(self, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise z with interpolate(x, z, t) == x_t: what remains of x_t when the data is known."""
        sigma = t.clamp_min(1e-12)
        return x_t * along(1 / sigma, x_t) - x * along((1 - t) / sigma, x_t)

    def renoise(self, z: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        """z itself.

        Raises:
            ValueError: eta is not 0.
        """
        if eta != 0:
            raise ValueError(
                f"eta = {eta}: an equilibrium carries no fresh noise; use Gaussian() for stochastic sampling"
            )
        return z

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        return self.interpolate(ends.x, self.renoise(ends.z, t, s, eta, rng), s)

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return Endpoints(lerp(weak.x, strong.x, w), lerp(weak.z, strong.z, w))

    def measured(self, guess: Guess, x: Tensor, **condition: Any) -> dict[str, float]:
        """What a finished run of it wants to know: the median residual on real data x (B, ...), at which samples have
        arrived."""
        return {"residual": float(residual(guess, x, **condition).median())}


def field(denoiser: Guess, x: Tensor, **condition: Any) -> Tensor:
    """The field f at x (B, ...), shaped like x: 0 on the data, towards the noise elsewhere.

    Read off the guessed endpoints at t = 1, where c is constant, so it works for any guess: guided, clipped, inpainted.

    Raises:
        TypeError: the denoiser's process is not an :class:`Equilibrium`.
    """
    process = denoiser.process
    if not isinstance(process, Equilibrium):
        raise TypeError(f"descent needs a field without time: train with Equilibrium(), not {type(process).__name__}")
    one = torch.ones((), dtype=torch.float64)
    ends = denoiser(x, one, **condition)
    found: Tensor = process.strength(one) * (ends.z - ends.x)
    return found


def residual(denoiser: Guess, x: Tensor, **condition: Any) -> Tensor:
    """Root mean square over the elements of the field at x (B, ...): (B,), in units of the field, float32 or wider.

    Small on the data and about ``scale`` times sqrt(2) in pure noise, so at given data it scores how far that lies from
    the data learned. It is small at saddles of the field too, half-way between separate data.
    """
    return _rms(field(denoiser, x, **condition))


def _rms(f: Tensor) -> Tensor:
    wide = f if f.dtype == torch.float64 else f.float()
    return wide.flatten(1).pow(2).mean(1).sqrt()


class Descended(NamedTuple):
    """Where a descent is: x (B, ...), steps (B,) int64, the calls of the denoiser that each sample took, and residual
    (B,), the root mean square of the field at x."""

    x: Tensor
    steps: Tensor
    residual: Tensor


def descent(
    denoiser: Guess,
    z: Tensor,
    *,
    step: float = 0.005,
    momentum: float = 0.3,
    tol: float = 0.2,
    most: int = 250,
    **condition: Any,
) -> Iterator[Descended]:
    """Every point at which :func:`descend` asks for the field, the start first: for previews, early stops and videos.

    Raises:
        ValueError: as :func:`descend`, at once.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step must be positive and finite, got {step}: about 0.02 / scale is a good start")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}: a learned field is never 0 exactly")
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    return _descent(denoiser, z, step, momentum, tol, most, condition)


def _descent(
    denoiser: Guess, z: Tensor, step: float, momentum: float, tol: float, most: int, condition: dict[str, Any]
) -> Iterator[Descended]:
    x = ahead = denoiser.process.start(z)
    steps = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    moving = torch.ones(len(x), dtype=torch.bool, device=x.device)
    size = torch.zeros((), device=x.device)
    for _ in range(most):
        # rows that stand still are computed along and not used: conditions and guidance strengths keep their rows
        f = field(denoiser, ahead, **condition)
        steps, size = steps + moving, torch.where(moving, _rms(f), size)
        yield Descended(ahead, steps, size)
        moving = ~(size < tol)  # a residual that is not a number has not arrived
        if not bool(moving.any()):
            return
        rows, moved = moving.reshape(-1, *[1] * (x.ndim - 1)), ahead - step * f
        ahead, x = torch.where(rows, moved + momentum * (moved - x), ahead), moved


@torch.no_grad()
def descend(
    denoiser: Guess,
    z: Tensor,
    *,
    step: float = 0.005,
    momentum: float = 0.3,
    tol: float = 0.2,
    most: int = 250,
    **condition: Any,
) -> Descended:
    """Samples from noise z (B, ...) by gradient descent with Nesterov's momentum (1983), each until its field vanishes.

    A sample whose residual falls below ``tol`` stands still from then on, whatever else is in the batch, which ends when
    all have arrived. A sample that has not arrived after ``most`` calls comes back from where its residual was least, so
    more calls never raise a residual (a learned field need not vanish anywhere, and may carry a sample past the data).
    Nothing is raised then: look at the residual.

    Args:
        denoiser: with an :class:`Equilibrium` process; guided ones work too, at any time they say t = 1.
        step: x <- x - step * f(x). Far from the data a step walks step * scale / (1 - momentum) of the way to it; near
            the data the descent diverges from 2 * cut / scale on.
        momentum: share of the last move that is added to the next one; the paper's is 0.3.
        tol: residual at which a sample has arrived, in units of the field. Right is what the learned field leaves on the
            data: the median of :func:`residual` over held-out data, or a little more. Much less lets samples walk on.
        most: calls of the denoiser after which it ends.

    Raises:
        ValueError: step, tol or most not positive, or a momentum outside [0, 1).
        TypeError: the denoiser's process is not an :class:`Equilibrium`.
    """
    states = descent(denoiser, z, step=step, momentum=momentum, tol=tol, most=most, **condition)
    best = next(states)
    for state in states:
        better = ~(state.residual >= best.residual) & ~state.residual.isnan()
        rows = better.reshape(-1, *[1] * (z.ndim - 1))
        x, least = torch.where(rows, state.x, best.x), torch.where(better, state.residual, best.residual)
        best = Descended(x, state.steps, least)
    return best


@dataclass(frozen=True)
class Descent(Solver):
    """:func:`descend` as a solver, for walks over times [1, 0]: memory is the number of calls of each sample, (B,) int64.

    Raises:
        ValueError: a process with a time, or times of their own for frames or tokens, which descent knows nothing of.
    """

    step_size: float = 0.005
    momentum: float = 0.3
    tol: float = 0.2
    most: int = 250
    order: int = 1
    counts: ClassVar[bool] = True

    def prepare(self, times: Tensor) -> None:
        return None

    def step(
        self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Tensor | None, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        if not isinstance(guess.process, Equilibrium):
            raise ValueError(
                f"Descent walks a field without time, and {type(guess.process).__name__} has one: train with Equilibrium(), "
                "or use Euler()"
            )
        if t.ndim > 1:
            raise ValueError(
                "Descent has no times, hence none for each frame or token: hold what is known by inpaint()"
            )
        found = descend(guess, x_t, step=self.step_size, momentum=self.momentum, tol=self.tol, most=self.most)
        return found.x, found.steps if memory is None else memory + found.steps
