"""When: the distributions of training times, each given as its quantile function, and how a batch draws from them.

One time a sample (:class:`Uniform`, :class:`LogitNormal`, :class:`LogNormal`, :class:`Adaptive`, :class:`Covered`), a time
for each frame or token (:class:`PerFrame`, :class:`PartlyKnown`, :class:`Ramp`), or one for each part of a product
(:class:`PerPart`). All that is random comes from the rows' own streams, so a row's times are the same in any batch and on any
number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfumato.diffusion import tree
from sfumato.diffusion.coefficients import numbers
from sfumato.diffusion.rng import Rng, Streams, moved, uniform_like
from sfumato.diffusion.schedule import Schedule
from sfumato.diffusion.tree import Tree


class Times(Protocol):
    """A distribution of training times. Inherit from it: then one time a sample is drawn unless ``draw`` says otherwise."""

    def __post_init__(self) -> None:
        """Of dataclasses: no number of theirs is NaN."""
        numbers(self)

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Quantile function: uniform numbers u in (0, 1), (B,) or (B, L) -> times t of the same shape."""

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tree:
        """The times of a batch: (B,), (B, L), or a dict of them for a product.

        Args:
            u: one uniform number a row, (B,) float64, spread evenly over the global batch (:func:`stratified`).
            rng: the rows' streams, for all numbers beyond that one.
            process: whose schedule counts.
            batch: the rows themselves, "x" and conditions: what is known may depend on the item.
        """
        return self(u, process.schedule)


def stratified(rng: Streams, positions: Tensor, total: int) -> Tensor:
    """Uniform numbers (B,) of which exactly one falls into each of ``total`` equal strata.

    ``positions`` (B,) are the rows' places in the global batch (over ranks and accumulation), so the strata are shared
    out without communication; the place within a stratum comes from each row's own stream. Low discrepancy lowers the
    variance of the loss for nothing (VDM, Kingma 2021, appendix I).
    """
    return (moved(positions, rng.device) + rng.uniform((len(positions),), torch.float64)) / total


def _normal_quantile(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9))


@dataclass(frozen=True)
class Uniform(Times):
    """t uniform in [low, high]. At t = 0 itself there is nothing to learn, hence a small ``low``."""

    low: float = 1e-4
    high: float = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.low + (self.high - self.low) * u.double()


@dataclass(frozen=True)
class LogitNormal(Times):
    """t = sigmoid(N(mean, std)): mean above 0 sees more noise (SD3, Esser 2024; pixels 0.8, 0.8 in JiT)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u))


@dataclass(frozen=True)
class LogNormal(Times):
    """ln(sigma / alpha) ~ N(mean, std): EDM's choice, on any schedule (clipped to the schedule's own range)."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.time(-2 * (self.mean + self.std * _normal_quantile(u))).clamp(0, 1)


class Adaptive(nn.Module, Times):
    """Times in proportion to how fast information is lost, learned online from the loss (InfoNoise, arXiv 2602.18647).

    By the I-MMSE relation the forward process destroys half the noise-answer's mean squared error per unit of log-SNR
    (per coordinate, in nats); noise levels are drawn in that proportion, mixed with a uniform share.

    Args:
        low, high: range of ln(sigma / alpha) covered. The range is a property of the data: below the finest scale of
            the data the loss of information never ends, so ``low`` is where the data has no more detail.
        bins: resolution of the running mean of the loss over that range.
        momentum: of that running mean, per batch.
        uniform: share of levels drawn evenly.
    """

    errors: Tensor

    def __init__(
        self, low: float = -5.0, high: float = 4.0, bins: int = 100, momentum: float = 0.99, uniform: float = 0.1
    ):
        super().__init__()
        self.low, self.high, self.momentum, self.uniform = low, high, momentum, uniform
        self.register_buffer("errors", torch.ones(bins, dtype=torch.float64))

    def density(self) -> Tensor:
        """Probability of each bin: (bins,)."""
        learned = self.errors / self.errors.sum()
        return (1 - self.uniform) * learned + self.uniform / len(learned)

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        edges = torch.cat([self.density().new_zeros(1), self.density().cumsum(0)])
        u = u.double().to(edges.device).clamp(0, 1 - 1e-9)
        left = torch.searchsorted(edges, u.contiguous(), right=True).sub(1).clamp(0, len(self.errors) - 1)
        place = left + (u - edges[left]) / (edges[left + 1] - edges[left])
        level = self.low + (self.high - self.low) * place / len(self.errors)
        return schedule.time(-2 * level).clamp(0, 1)

    @torch.no_grad()
    def observe(self, level: Tensor, noise_error: Tensor) -> None:
        """Learn from one batch: ln(sigma / alpha) (B,) and the mean squared error in the noise answer (B,)."""
        bins = len(self.errors)
        place = ((level - self.low) / (self.high - self.low) * bins).long().clamp(0, bins - 1)
        count = torch.zeros_like(self.errors).index_add_(0, place, torch.ones_like(level, dtype=torch.float64))
        total = torch.zeros_like(self.errors).index_add_(0, place, noise_error.double().clamp_max(1.0))
        keep = self.momentum**count  # a bin forgets by how often it was seen
        self.errors.mul_(keep).add_((1 - keep) * total / count.clamp_min(1))


@dataclass(frozen=True)
class Covered(Times):
    """``times`` of which a share is spread evenly from 0 to 1 instead, and as much lies at 1 itself; with ``even`` False it lies
    at 1 alone, where the loss at the smallest times is large and rough: that of a network that answers data, in velocity.

    Every sample starts at t = 1, where a logit-normal distribution never comes and what a network answers is chance: one
    step of a policy on Push-T was off by 166 pixels, and by 42 with this share after half of that training.
    """

    times: Times
    share: float = 0.05
    even: bool = True

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Quantile function, not in order: uniform numbers (B,) -> times (B,)."""
        u, taken = u.double(), self.share * (1 + self.even)
        spread = (u / self.share).clamp(1e-4, 1.0) if self.even else torch.ones_like(u)
        rest = self.times(((u - taken) / (1 - taken)).clamp(0, 1), schedule)
        return torch.where(u < taken, spread, rest)


# ---- more than one time a sample -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PerFrame(Times):
    """Every frame (token, step of a series: the first axis of an item) has a time of its own from ``times``: (B, L).

    Source: diffusion forcing (Chen 2024, arXiv 2407.01392).
    """

    times: Times

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.times(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tensor:
        x = tree.first(batch["x"])
        return self.times(uniform_like(u, rng, x.shape[:2]), process.schedule)


@dataclass(frozen=True)
class PartlyKnown(Times):
    """Times (B, L) of items of which frames may be known: a share of the rows has a time for each frame, as in
    :class:`PerFrame`; in others a prefix is known, of 1 to L - 1 frames, or any so many; the rest has one time for all frames.
    What is known has time 0, or in a share ``soft`` of these rows a time up to ``small``, one for all that is known: so a
    network may be shown its own earlier answers without taking them for the truth.

    Sources: diffusion forcing (Chen 2024, arXiv 2407.01392) for times of their own and for context that keeps some noise; clean
    frames at time 0 that the loss leaves out are how video models are conditioned (Lin 2024, arXiv 2412.00131).

    Args:
        times: of what is not known.
        own, prefix, some: shares of the rows.

    Raises:
        ValueError: shares below 0, or of more than 1 together; small outside 0 to 1.
    """

    times: Times
    own: float = 0.3
    prefix: float = 0.2
    some: float = 0.1
    soft: float = 0.5
    small: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        shares = (self.own, self.prefix, self.some)
        if min(shares) < 0 or sum(shares) > 1 + 1e-9:
            raise ValueError(f"own, prefix, some = {shares}: must be shares, 1 at most together")
        if not (0 <= self.soft <= 1 and 0 <= self.small <= 1):
            raise ValueError(f"soft, small = {self.soft}, {self.small}: must be from 0 to 1")

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.times(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tensor:
        length = tree.first(batch["x"]).shape[1]
        chance = uniform_like(u, rng, (len(u), 4 + 2 * length))
        kind, count, gentle, level = chance[:, :4].T
        each, order = chance[:, 4 : 4 + length], chance[:, 4 + length :]
        one = self.times(u, process.schedule)[:, None].expand(-1, length)
        if length == 1:
            return one
        known = 1 + (count * (length - 1)).floor()[:, None]  # 1 .. length - 1
        place = torch.arange(length, device=u.device, dtype=u.dtype)
        prefix, some = place < known, order.argsort(1).argsort(1) < known
        edges = [self.own, self.own + self.prefix, self.own + self.prefix + self.some]
        held = torch.where((kind < edges[1])[:, None], prefix, some)
        clean = torch.where(gentle < self.soft, self.small * level, torch.zeros_like(level))[:, None]
        mixed = torch.where(held & (kind < edges[2])[:, None], clean, one)
        return torch.where((kind < edges[0])[:, None], self.times(each, process.schedule), mixed)


@dataclass(frozen=True)
class PerPart(Times):
    """Every part of a product has times of its own, from its own schedule: a dict part -> (B,) or (B, L).

    Args:
        times: part -> its distribution, or one for all parts. Parts that stay clean need none.
        together: share of the rows in which all parts share one place u in their distributions, as where they are walked
            together.

    Raises:
        ValueError: a share outside 0 to 1; later on, a process that is no product, or a moving part without times.
    """

    times: Times | Mapping[str, Times]
    together: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.together <= 1:
            raise ValueError(f"together = {self.together}: must be a share from 0 to 1")

    def of(self, name: str) -> Times:
        """The distribution of a part. Raises ValueError where there is none."""
        if not isinstance(self.times, Mapping):
            return self.times
        if name not in self.times:
            raise ValueError(f"part {name!r} has no times: there are times for {', '.join(self.times)}")
        return self.times[name]

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Of the first part."""
        first = next(iter(self.times.values())) if isinstance(self.times, Mapping) else self.times
        return first(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> dict[str, Tree]:
        moving = process.moving()
        own = uniform_like(u, rng, (len(u), len(moving) + 1))
        shared = own[:, -1] < self.together
        times = {}
        for i, (name, part) in enumerate(moving.items()):
            place = torch.where(shared, u, own[:, i]) if i else u
            times[name] = self.of(name).draw(place, rng, part, {**batch, "x": batch["x"][name]})
        return times


@dataclass(frozen=True)
class Ramp(Times):
    """Times that rise along an item: t * ramp with ramp_l = min(1, low + (1 - low) l / length), low in [0, 1] and length in
    1..L at random, for a share of the rows; the others have one time t, from ``times``.

    So a chunk that is carried on from the one before, sure of now and open later, is walked through just as it was
    trained. Sources: rolling diffusion (Ruhe 2024, arXiv 2402.09470), streaming diffusion policy (Hoeg 2024, arXiv
    2406.04806).
    """

    times: Times
    share: float = 0.5

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.times(u, schedule)

    def draw(self, u: Tensor, rng: Rng, process: Any, batch: Mapping[str, Tree]) -> Tensor:
        x = tree.first(batch["x"])
        t, steps = self.times(u, process.schedule), x.shape[1]
        own = uniform_like(u, rng, (len(u), 3))
        length = 1 + (own[:, 1:2] * steps).floor()
        ramps = ramp(own[:, :1], length, steps)
        return t[:, None] * torch.where(own[:, 2:] < self.share, ramps, torch.ones_like(ramps))


def ramp(low: Tensor, length: Tensor, steps: int) -> Tensor:
    """min(1, low + (1 - low) l / length) for l = 0 .. steps - 1; low and length (B, 1) -> (B, steps)."""
    place = torch.arange(steps, device=low.device, dtype=low.dtype)
    return (low + (1 - low) * place / length).clamp_max(1.0)
