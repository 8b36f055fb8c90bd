r"""Processes: how data and noise are joined, and what a network is asked about it.

The Gaussian process is one linear equation, x_t = alpha x + sigma z. Every answer a network may give is one more row
(p, q) under it,

    [ x_t    ]   [ alpha  sigma ] [ x ]
    [ answer ] = [   p      q   ] [ z ],        det = alpha q - sigma p,

so guessing both endpoints is the inverse of a 2x2 matrix. That one determinant replaces all converters between noise,
data, v, velocity and score, and all tables of loss weights: an error e in the answer is an error -sigma e / det in x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import along, blend, remembered
from sfumato.diffusion.paths import Endpoints, Path, StraightPath
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.tree import Tree
from sfumato.diffusion.weights import Weight, kept, mean_counted

__all__ = ["Answer", "Endpoints", "Gaussian", "Path", "Process", "States", "StraightPath", "Weight", "along", "lerp"]

Answer = Literal["data", "noise", "v", "velocity", "score"]
States = Literal["vectors", "tokens", "points", "parts"]


class Process(Protocol):
    """What a world (Gaussian, tokens, rotations, products of them) must be able to do."""

    states: ClassVar[States]
    """What its states are: vectors, that may be added and scaled; tokens; points of a manifold; parts, a dict of others.
    Solvers name the worlds that they walk by it."""

    @property
    def habits(self) -> Mapping[str, Any]:
        """Solver, grid and eta that suit it, by the names of the command line."""

    @property
    def schedule(self) -> Schedule:
        """Its pace; of a product, that of its first moving part."""

    def prior(self, x: Tree, rng: Rng = None) -> Tree:
        """Noise z for x, whose shape and type alone are read. Fresh noise on the way is drawn by it, too."""

    def start(self, z: Tree) -> Tree:
        """The point at t = 1."""

    def interpolate(self, x: Tree, z: Tree, t: Tree) -> Tree:
        """The forward process in closed form: x_t."""

    def precondition(self, x_t: Tree, t: Tree) -> tuple[Tree, Tree]:
        """What the network is shown: x_t at unit variance, and the noise level."""

    def target(self, x: Tree, z: Tree, t: Tree) -> Tree:
        """What the network should answer."""

    def loss(self, answer: Tree, x: Tree, z: Tree, t: Tree, weight: Tree | None = None) -> Tensor:
        """How wrong an answer is, per sample: (B,), the mean of weight x error over the numbers that count, see
        :func:`~sfumato.diffusion.weights.mean_counted`."""

    def endpoints(self, answer: Tree, x_t: Tree, t: Tree, rng: Rng = None) -> Endpoints:
        """The guess of both endpoints that an answer encodes."""

    def step(self, ends: Endpoints, x_t: Tree, t: Tree, s: Tree, eta: float = 0.0, rng: Rng = None) -> Tree:
        """From x_t to x_s with guessed endpoints; eta = 0 is deterministic, 1 the Markov chain."""

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tree, t: Tree) -> Endpoints:
        """Guidance: the guess that lies w times as far from ``weak`` as ``strong`` does; w is a number or (B,)."""


def _data(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(t), torch.zeros_like(t)


def _noise(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), torch.ones_like(t)


def _v(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    radius = schedule.hypot(t)
    return -schedule.sigma(t) / radius, schedule.alpha(t) / radius


def _velocity(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return schedule.rates(t.clamp(1e-6, 1 - 1e-6))  # some schedules leave or arrive at infinite speed


def _score(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(t), -1 / schedule.sigma(t).clamp_min(1e-12)  # at t = 0 x_t is the data, whatever the score


# name -> (row, smallest alpha in det). The noise and score answers say nothing about the data where alpha = 0: there
# the determinant is held at the alpha that DDPM's own schedule ends with, instead of dividing by zero.
_ROWS: dict[str, tuple[Callable[[Schedule, Tensor], tuple[Tensor, Tensor]], float]] = {
    "data": (_data, 0.0),
    "noise": (_noise, 5e-3),
    "v": (_v, 0.0),
    "velocity": (_velocity, 0.0),
    "score": (_score, 5e-3),
}


@dataclass(frozen=True)
class Gaussian(StraightPath):
    """x_t = alpha(t) x + sigma(t) z with normal noise z, for tensors of any shape (B, ...).

    Args:
        schedule: alpha and sigma as functions of t.
        predicts: what the network answers: "data", "noise", "v" ((-sigma, alpha)/hypot; EDM's network output is -v),
            "velocity" (dx_t/dt) or "score".
        loss_in: the space in which the error is squared, same words; the answer itself unless given. Answering data
            and losing in velocity is the modern default for pixels (JiT, arXiv 2511.13720).
        weight: a further factor as a function of log-SNR; with ``loss_in="data"`` it is the weight on x of the papers.
        cap: largest factor from the answer's error to the loss's (answering data, 1/sigma grows without bound as
            t -> 0; 20 is the clip at t = 0.05 of JiT).

    Data is expected at about unit variance: the network is shown x_t / hypot(alpha, sigma) and ln(sigma / alpha).

    Raises:
        ValueError: an unknown answer.
    """

    schedule: Schedule = Linear()
    predicts: Answer = "velocity"
    loss_in: Answer | None = None
    weight: Weight | None = None
    cap: float = 20.0

    states: ClassVar[States] = "vectors"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "ab2", "grid": "auto", "eta": 0.0}

    def __post_init__(self) -> None:
        for name in (self.predicts, self.loss_in or self.predicts):
            if name not in _ROWS:
                raise ValueError(f"unknown answer {name!r}: use one of {', '.join(_ROWS)}")

    @property
    def finest(self) -> float:
        """sigma / alpha from which the last step should go to the data in one: below it the answer of data is not trained,
        for an error in it is an error times alpha / sigma in the loss, and ``cap`` bounds that."""
        return 1 / self.cap if self.predicts == "data" and self.loss_in not in (None, "data") else 0.0

    def start(self, z: Tensor) -> Tensor:
        return self.schedule.sigma(torch.ones((), dtype=torch.float64)) * z

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self._place(t)
        return blend(alpha, x, sigma, z)

    @remembered
    def _place(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        scale, level = self._shown(t)
        if not isinstance(level, Tensor):
            return scale * x_t, torch.full((len(x_t),), level, dtype=torch.float32, device=x_t.device)
        level = level.to(torch.float32)
        return along(scale, x_t) * x_t, level.expand(len(x_t)) if level.ndim == 0 else level

    @remembered
    def _shown(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / self.schedule.hypot(t), (-self.schedule.logsnr(t) / 2).clamp(-12, 7)

    def row(self, name: Answer, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(p, q, det) of an answer at time t."""
        rule, smallest = _ROWS[name]
        p, q = rule(self.schedule, t)
        det = self.schedule.alpha(t).clamp_min(smallest) * q - self.schedule.sigma(t) * p
        return p, q, torch.where(det < 0, det.clamp_max(-1e-12), det.clamp_min(1e-12))

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        p, q, _ = self.row(self.predicts, t)
        return along(p, x) * x + along(q, x) * z

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        answer = answer.to(x_t.dtype)
        if self.predicts == "data":
            return Endpoints(answer, self.noise_given(answer, x_t, t))
        a, b, c, d = self._inverse(t)
        return Endpoints(blend(a, x_t, b, answer), blend(c, x_t, d, answer))

    @remembered
    def _inverse(self, t: Tensor) -> tuple[Tensor, ...]:
        """(a, b, c, d) with x = a x_t + b answer and z = c x_t + d answer."""
        p, q, det = self.row(self.predicts, t)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        held = det != alpha * q - sigma * p  # then z is what remains of x_t, so that the guess still explains x_t
        p = torch.where(held, (alpha * q - det) / sigma.clamp_min(1e-12), p)
        return q / det, -sigma / det, -p / det, alpha / det

    def noise_given(self, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise z with interpolate(x, z, t) == x_t: what remains of x_t when the data is known."""
        a, b = self._rest(t)
        return blend(a, x_t, b, x)

    @remembered
    def _rest(self, t: Tensor) -> tuple[Tensor, Tensor]:
        sigma = self.schedule.sigma(t).clamp_min(1e-12)
        return 1 / sigma, -self.schedule.alpha(t) / sigma

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        answer = kept(answer.to(x.dtype), x.shape, t, weight)
        error = (answer - self.target(x, z, t)) ** 2
        return mean_counted(along(self.loss_weight(t), x) * error, t, weight)

    def loss_weight(self, t: Tensor) -> Tensor:
        """Factor on the squared error of the answer: change of space (a ratio of determinants) times ``weight``."""
        factor = torch.ones_like(t)
        if self.loss_in is not None and self.loss_in != self.predicts:
            ratio = self.row(self.loss_in, t)[2] / self.row(self.predicts, t)[2]
            factor = ratio.abs().clamp_max(self.cap) ** 2
        return factor if self.weight is None else factor * self.weight(self.schedule.logsnr(t))

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        return self.interpolate(ends.x, self.renoise(ends.z, t, s, eta, rng), s)

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return Endpoints(lerp(weak.x, strong.x, w), lerp(weak.z, strong.z, w))


def lerp(a: Tensor, b: Tensor, w: float | Tensor) -> Tensor:
    """a + w (b - a), with w one number or one per sample (B,)."""
    return torch.lerp(a, b, along(w, a) if isinstance(w, Tensor) else w)
