"""Training: the loss, and its three free choices: which times (when), which weights (how much), which pairs (with what).

loss(denoiser, x, t)      for every process, schedule and answer
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.process import Weight
from sfumato.diffusion.rng import Rng, Streams
from sfumato.diffusion.schedule import Schedule


def loss(denoiser: Denoiser, x: Any, t: Tensor, rng: Rng = None, z: Any = None, **condition: Any) -> Tensor:
    """How wrong the denoiser is about x (B, ...) at times t (B,) or (B, L): the loss per sample, (B,).

    With ``z`` the noise is given (a coupling chose it), otherwise drawn. Flow matching (Lipman 2023) is this function
    with the straight schedule and the answer velocity: x_t = (1 - t) x + t z against z - x.
    """
    process = denoiser.process
    z = process.prior(x, rng) if z is None else z
    x_t = process.interpolate(x, z, t)
    answer = denoiser.answer(x_t, t, **condition)
    return process.loss(answer, x, z, t)


# ---- when: the distribution of training times, given as its quantile function ----------------------------------------


class Times(Protocol):
    """A distribution of training times: maps uniform numbers u in (0, 1) to times t, both (B,) or (B, L)."""

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Quantile function."""


def stratified(rng: Streams, positions: Tensor, total: int) -> Tensor:
    """Uniform numbers (B,) of which exactly one falls into each of ``total`` equal strata.

    ``positions`` (B,) are the rows' places in the global batch (over ranks and accumulation), so the strata are shared
    out without communication; the place within a stratum comes from each row's own stream. Low discrepancy lowers the
    variance of the loss for nothing (VDM, Kingma 2021, appendix I).
    """
    return (positions.to(rng.device) + rng.uniform((len(positions),), torch.float64)) / total


def _normal_quantile(u: Tensor) -> Tensor:
    return torch.special.ndtri(u.double().clamp(1e-9, 1 - 1e-9))


@dataclass(frozen=True)
class Uniform:
    """t uniform in [low, high]. At t = 0 itself there is nothing to learn, hence a small ``low``."""

    low: float = 1e-4
    high: float = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.low + (self.high - self.low) * u.double()


@dataclass(frozen=True)
class LogitNormal:
    """t = sigmoid(N(mean, std)): mean above 0 sees more noise (SD3, Esser 2024; pixels 0.8, 0.8 in JiT)."""

    mean: float = 0.0
    std: float = 1.0

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u))


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma / alpha) ~ N(mean, std): EDM's choice, on any schedule (clipped to the schedule's own range)."""

    mean: float = -1.2
    std: float = 1.2

    def __call__(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.time(-2 * (self.mean + self.std * _normal_quantile(u))).clamp(0, 1)


class Adaptive(nn.Module):
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


# ---- how much: weights on the squared error of x, as functions of log-SNR (use them with loss_in="data") -------------


def edm_weight(sigma_data: float = 1.0) -> Weight:
    """EDM (Karras 2022, table 1): (sigma^2 + sigma_data^2) / (sigma sigma_data)^2; at unit variance the loss in v."""
    return lambda logsnr: 1 / sigma_data**2 + logsnr.exp()


def min_snr(gamma: float = 5.0) -> Weight:
    """min(SNR, gamma) on x (Hang 2023, arXiv 2303.09556)."""
    return lambda logsnr: logsnr.exp().clamp_max(gamma)


def sigmoid_weight(bias: float = -1.0) -> Weight:
    """sigmoid(bias - logsnr) on the noise answer, hence times SNR on x (Kingma & Gao 2023, Hoogeboom 2024)."""
    return lambda logsnr: torch.exp(bias + torch.nn.functional.logsigmoid(logsnr - bias))


class LearnedUncertainty(nn.Module):
    """A weight that is learned: loss / exp(u) + u, u a small function of the noise level (EDM2, Karras 2024, eq. 14).

    At its optimum exp(u) is the mean loss at that level, so every level pulls on the network equally hard.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, features: int = 64, longest: float = 40.0, shortest: float = 2.0):
        super().__init__()
        periods = longest * (shortest / longest) ** (torch.arange(features // 2) / (features // 2 - 1))
        self.register_buffer("frequencies", 2 * math.pi / periods.repeat(2))
        self.register_buffer("phases", torch.tensor([0.0, math.pi / 2]).repeat_interleave(features // 2))
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, losses: Tensor, level: Tensor) -> Tensor:
        """Losses (B,) at noise levels ln(sigma / alpha) (B,) -> what to descend on, (B,)."""
        level = level.clamp(-12, 7).float()
        u = self.linear(torch.cos(level[:, None] * self.frequencies + self.phases))[:, 0]
        return losses * torch.exp(-u) + u


# ---- with what: couplings of data and noise --------------------------------------------------------------------------


def independent(x: Tensor, z: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
    """Every sample keeps the noise it drew."""
    return z


def optimal_transport(
    x: Tensor, z: Tensor, condition: Mapping[str, Tensor] | None = None, strictness: float = 1e3
) -> Tensor:
    """Deal the batch's noise out so that the total squared distance to the data is least (Pooladian 2023, Tong 2024).

    Straighter paths, hence fewer steps. Each noise first belongs to the condition it was drawn beside, and moving it to
    another condition costs ``strictness`` times the squared distance of the conditions (C2OT, arXiv 2503.10636):
    without that, noise would come to depend on the condition in training but not in sampling.

    Args:
        x, z: (B, ...). condition: name -> (B, ...), labels or vectors.

    Returns:
        z with its rows reordered.
    """
    data, noise = x.flatten(1).double(), z.flatten(1).double()
    cost = torch.cdist(data, noise) ** 2
    for value in (condition or {}).values():
        flat = value.reshape(len(value), -1).double()
        apart = (
            (flat[:, None] != flat[None]).any(-1).double()
            if not value.is_floating_point()
            else torch.cdist(flat, flat) ** 2
        )
        cost = cost + strictness * cost.mean() * apart
    return z[assign(cost)]


def assign(cost: Tensor, precision: float = 1e-4) -> Tensor:
    """Least-cost assignment of columns to rows: (n, n) costs -> column of each row (n,), int64.

    Bertsekas' auction with falling step: the total is within ``precision`` times the spread of the costs of the least.

    Raises:
        ValueError: a cost is NaN or infinite.
    """
    n = len(cost)
    if n < 2:
        return torch.zeros(n, dtype=torch.long, device=cost.device)
    value = (cost.max() - cost).double()
    spread = float(value.max()) or 1.0
    if not math.isfinite(spread):  # the auction would never end
        raise ValueError("assign needs finite costs: there is a NaN or an infinity in the data or the noise")
    prices = torch.zeros(n, dtype=torch.float64, device=cost.device)
    step = spread / 4
    while True:
        step = max(step / 5, spread * precision / n)
        owner = torch.full((n,), -1, dtype=torch.long, device=cost.device)  # row that holds each column
        holds = torch.full((n,), -1, dtype=torch.long, device=cost.device)  # column that each row holds
        while bool((holds < 0).any()):
            bidders = (holds < 0).nonzero()[:, 0]
            best = (value[bidders] - prices).topk(2, dim=1)
            wanted, bids = best.indices[:, 0], best.values[:, 0] - best.values[:, 1] + step
            highest = torch.zeros(n, dtype=torch.float64, device=cost.device).scatter_reduce_(0, wanted, bids, "amax")
            winning = bids == highest[wanted]
            columns, rows = wanted[winning], bidders[winning]
            owner_before = owner[columns]
            owner[columns] = rows  # of equal bids the last written wins; only the owner may hold the column
            won = owner[columns] == rows
            holds[owner_before[owner_before >= 0]] = -1
            holds[rows[won]] = columns[won]
            prices = prices + highest
        if step <= spread * precision / n:
            return holds


Coupling = Callable[..., Tensor]
