"""Sequential Monte Carlo over a sampler: guidance by rewards without gradients, and the estimator of rare events.

B particles walk together. After each step every particle is weighted by how much the reward of its guessed data has
grown, and when the weights have become too uneven the particles are drawn anew in proportion to them. The increments
telescope, so what arrives at t = 0 is the sampler's distribution times exp(reward), whatever was said on the way, and
the product of the mean weights is an unbiased estimate of the normalising constant E[exp(reward(x))].

Sources: Del Moral, "Feynman-Kac Formulae" (2004); FK steering (Singhal 2025, arXiv 2501.06848).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion import tree
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import Endpoints
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.sample import Bound, Euler, Solver, check_times, check_world, still
from sfumato.diffusion.schedule import Schedule

Reward = Callable[[Any, Any], Tensor]
"""Guessed data x (B, ...) at time t -> log-potential (B,). At t = 0, and only there, x is the sample itself. -inf kills."""


class Steered(NamedTuple):
    """What :func:`steer` returns.

    samples: equally weighted draws from the sampler's distribution times exp(reward), shaped like z.
    log_normalizer: (), log of the unbiased estimate of E[exp(reward(x))] over the sampler's own samples.
    effective_size: (n + 1,), effective number of particles before each drawing, (sum w)^2 / sum w^2.
    error: (), relative standard error of the estimate, from this run's lineages (:func:`lineage_error`).
    ancestors: (B,), the row of z from which each sample descends; few different ones mean much resampling.
    """

    samples: Any
    log_normalizer: Tensor
    error: Tensor
    effective_size: Tensor
    ancestors: Tensor


@dataclass(frozen=True)
class _Told:
    """A denoiser that need not be asked again about the point that it was asked about."""

    denoiser: Guess
    ends: Endpoints
    x_t: Any
    t: Any

    @property
    def process(self) -> Any:
        return self.denoiser.process

    def given(self, **condition: Any) -> Any:
        return self.denoiser.given(**condition)

    def __call__(self, x_t: Any, t: Any, s: Any = None, *, given: Any = None, **condition: Any) -> Any:
        if x_t is self.x_t and t is self.t and s is None and not condition:
            return self.ends
        return self.denoiser(x_t, t, s, given=given, **condition)


@torch.no_grad()
def steer(
    denoiser: Guess,
    z: Any,
    times: Any,
    reward: Reward,
    solver: Solver = Euler(eta=1.0),
    rng: Rng = None,
    threshold: float = 0.5,
    **condition: Any,
) -> Steered:
    """Sample from the sampler's distribution times exp(reward(x)) with the rows of z (B, ...) as particles.

    Costs no call of the network beyond ``sample`` with the same arguments. Works for every process whose state is a
    tensor or a dict of tensors. Conditions and times are the same for all particles; what differs from row to row must
    be a ``Clean`` part of a product, so that it follows its particle. Resampling couples the rows: with ``Streams``
    the result is reproducible, but sample i is no longer the one it would be alone.

    Args:
        times: as for ``trajectory``.
        reward: see :data:`Reward`; best when it already knows at t > 0 where a particle is likely to end.
        solver: must be random (eta > 0), or copies of a particle stay equal; and without memory.
        threshold: share of B below which the effective size triggers a drawing (systematic); 0 never draws before the
            end, 1 always.

    Returns:
        :class:`Steered`. If every particle died, ``log_normalizer`` is -inf and the samples are the dead particles.

    Raises:
        ValueError: a threshold outside 0..1; rewards of a wrong shape, NaN or +inf; conditions or times that differ
            between the rows; a solver with memory, or of another world; times that do not fall.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a share of the particles, 0 to 1, got {threshold}")
    check_world(denoiser.process, solver)
    check_times(times)
    if tree.rows(z) == 0:
        raise ValueError("no particles: z must have at least one row")
    x_t, memory, times = denoiser.process.start(z), solver.prepare(times), list(times)
    size = tree.rows(x_t)
    for name, value in condition.items():
        _check_equal_rows(f"condition {name!r}", value, size)
    _check_equal_rows("time", times, size)
    guess = Bound.of(denoiser, condition)

    log_weights = torch.zeros(size, dtype=torch.float64)
    before, log_normalizer = torch.zeros_like(log_weights), torch.zeros((), dtype=torch.float64)
    ancestors, sizes = torch.arange(size), []

    def weigh(x: Any, t: Any) -> None:
        nonlocal log_weights, before
        now = _checked(reward(x, t), size)
        log_weights = log_weights + torch.where(before == -math.inf, -math.inf, now - before)
        before = now
        sizes.append(effective_size(log_weights))

    def draw() -> Tensor:
        nonlocal log_weights, before, log_normalizer, ancestors
        log_normalizer = log_normalizer + torch.logsumexp(log_weights, 0) - math.log(size)
        rows = systematic(log_weights, rng)
        log_weights, before, ancestors = torch.zeros_like(log_weights), before[rows], ancestors[rows]
        return rows

    for t, s in pairwise(times):
        ends = guess(x_t, t)
        weigh(ends.x, t)
        if sizes[-1] < threshold * size:
            rows = draw()
            x_t, ends = tree.take(x_t, rows), tree.take(ends, rows)
        x_s, memory = solver.step(_Told(guess, ends, x_t, t), x_t, t, s, memory, rng)
        x_t = still(x_t, x_s, t, s)
        if memory is not None:
            raise ValueError(f"particles cannot be drawn anew under a solver with memory: use Euler, not {solver}")
    weigh(x_t, tree.each(torch.zeros_like, times[-1]))
    error = lineage_error(log_weights, ancestors)
    samples = tree.take(x_t, draw())
    return Steered(samples, log_normalizer, error, torch.stack(sizes), ancestors)


def effective_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of log-weights (B,): B if they are equal, 1 if one has it all, 0 if all are -inf."""
    found = torch.exp(2 * torch.logsumexp(log_weights, 0) - torch.logsumexp(2 * log_weights, 0))
    return torch.where(log_weights.max() == -math.inf, torch.zeros_like(found), found)


def lineage_error(log_weights: Tensor, ancestors: Tensor) -> Tensor:
    """Relative standard error of a normalising constant from one run: (), inf if all weights are zero.

    Particles of different first ancestors were never drawn from one another, so the spread of the ancestors' shares of
    the final weight, sum_a (W_a - 1 / B)^2, estimates the relative variance (Chan & Lai 2013, Annals of Statistics 41).
    Made for multinomial drawing, hence somewhat too large under systematic drawing; nearing 1 it says only that too few
    lineages are left to tell.

    Args:
        log_weights: final log-weights (B,). ancestors: row of the first generation of each, (B,).
    """
    if log_weights.max() == -math.inf:
        return torch.full((), math.inf, dtype=torch.float64)
    shares = torch.zeros(len(ancestors), dtype=torch.float64).index_add_(
        0, ancestors, torch.softmax(log_weights.double(), 0)
    )
    return (shares - 1 / len(ancestors)).pow(2).sum().sqrt()


def systematic(log_weights: Tensor, rng: Rng = None) -> Tensor:
    """Rows (B,), rising, drawn in proportion to exp(log_weights) (B,): row i floor(B w_i) or ceil(B w_i) times, by one
    even comb (Kitagawa 1996). If all weights are zero every row is kept.

    The comb runs over the rows in the order of their weights, and of equal weights in random order: over rows as they
    come it can beat in time with them (labels that alternate, say), and then many rows go wrong together (Douc & Cappe
    2005, arXiv cs/0507025)."""
    size = len(log_weights)
    if log_weights.max() == -math.inf:
        return torch.arange(size, device=log_weights.device)
    numbers = uniform_like(log_weights, rng, (size, 2))
    order = numbers[:, 0].argsort(stable=True)
    order = order[log_weights[order].argsort(stable=True)]
    below = torch.softmax(log_weights.double()[order], 0).cumsum(0)
    comb = (torch.arange(size, device=below.device) + numbers[0, 1]) / size
    comb = comb.clamp_max(1 - 2**-53)  # rounding must not reach past the last particle with a weight
    rows: Tensor = order[torch.searchsorted(below / below[-1], comb, right=True)].sort().values
    return rows


def exceeds(score: Callable[[Any], Tensor], level: float, spread: Callable[[Any], Tensor]) -> Reward:
    """The reward of the rare event score(x) > level: the log-normaliser is then log P(score(x) > level).

    At t = 0 it is the event itself, 0 or -inf. Before, it is log Phi((score(guess) - level) / spread(t)), the chance
    that the event will happen if the score, given x_t, is normal about that of the guess with this deviation.

    Args:
        score: data (B, ...) -> (B,).
        spread: time t -> deviation, (); of data of unit variance it is :func:`guess_spread`. Too wide, and particles
            are chosen too late; too narrow, and few are chosen too early: the error bars then cannot be trusted.
    """

    def reward(x: Any, t: Any) -> Tensor:
        above = score(x) - level
        if _all_zero(t):
            return torch.where(above > 0, 0.0, -math.inf)
        chance: Tensor = torch.special.log_ndtr(above / spread(t))
        return chance

    return reward


def guess_spread(schedule: Schedule, scale: float = 1.0) -> Callable[[Tensor], Tensor]:
    """The deviation of data given x_t, sigma / hypot(alpha, sigma), for normal data of deviation ``scale`` = 1; times
    ``scale`` it is the usual spread for scores of that deviation."""

    def spread(t: Tensor) -> Tensor:
        return scale * schedule.angle(t).sin()

    return spread


def pooled(log_normalizers: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Independent runs' log-normalisers (R,) -> log of their mean, and the relative standard error of that mean, from
    the spread over the runs. The mean of unbiased estimates is unbiased; the error bar needs no theory but R >= 2.

    Raises:
        ValueError: fewer than two runs.
    """
    logs = torch.as_tensor(log_normalizers) if isinstance(log_normalizers, Tensor) else torch.stack([*log_normalizers])
    if logs.ndim != 1 or len(logs) < 2:
        raise ValueError(f"an error bar needs the log-normalisers of two runs or more, got shape {tuple(logs.shape)}")
    mean = torch.logsumexp(logs, 0) - math.log(len(logs))
    if mean == -math.inf:  # the event was never seen: nothing is known about the error either
        return mean, torch.full_like(mean, math.inf)
    return mean, (logs - mean).exp().std() / math.sqrt(len(logs))


def _checked(reward: Any, size: int) -> Tensor:
    if not isinstance(reward, Tensor) or reward.shape != (size,):
        shape = tuple(reward.shape) if isinstance(reward, Tensor) else type(reward).__name__
        raise ValueError(f"reward must return one number per particle, ({size},), got {shape}")
    now: Tensor = reward.detach().double().cpu()
    if bool((now.isnan() | (now == math.inf)).any()):
        raise ValueError("reward returned NaN or +inf: it must be finite, or -inf for what may not happen")
    return now


def _all_zero(t: Any) -> bool:
    return all(bool((value == 0).all()) for value in tree.leaves(t))


def _check_equal_rows(what: str, value: Any, size: int) -> None:
    """Rows that differ would be torn from their particles."""
    if isinstance(value, list):
        for each in value:
            _check_equal_rows(what, each, size)
    elif isinstance(value, Mapping):
        for each in value.values():
            _check_equal_rows(what, each, size)
    elif isinstance(value, Tensor) and value.ndim and len(value) == size and not bool((value == value[:1]).all()):
        raise ValueError(f"{what} differs between the particles: make it the same, or a Clean part of a product")
