r"""Noise schedules: how much data and how much noise there is at each time.

    x_t = alpha(t) x + sigma(t) z,      t = 0 is data, t = 1 is noise

Only the *angle* atan2(sigma, alpha) matters: divide x_t by hypot(alpha, sigma) and every schedule is the same quarter
circle, walked at another pace. Hence a network that is shown the angle (or the log-SNR, its other name) can be sampled
on a schedule it was not trained with. Derivatives are taken by forward-mode differentiation, never typed by hand.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

LEVEL = threading.RLock()
"""Held while torch differentiates forward: it has one level of that for all threads of a process."""


class Schedule:
    """Base class: a schedule defines ``alpha`` and ``sigma``; the rest follows. All take and return tensors of any shape."""

    def alpha(self, t: Tensor) -> Tensor:
        """Share of data at time t."""
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        """Share of noise at time t (its standard deviation)."""
        raise NotImplementedError

    def hypot(self, t: Tensor) -> Tensor:
        """Standard deviation of x_t when the data has unit variance."""
        return torch.hypot(self.alpha(t), self.sigma(t))

    def angle(self, t: Tensor) -> Tensor:
        """Place on the quarter circle: 0 is data, pi/2 is noise."""
        return torch.atan2(self.sigma(t), self.alpha(t))

    def logsnr(self, t: Tensor) -> Tensor:
        """Logarithm of the signal-to-noise ratio, 2 log(alpha / sigma); infinite where one of them is zero."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha/dt and d sigma/dt, by one forward-mode pass."""
        with LEVEL, forward_ad.dual_level():
            dual = forward_ad.make_dual(t.contiguous(), torch.ones_like(t))  # an expanded t cannot be dual
            rates = [forward_ad.unpack_dual(f(dual)).tangent for f in (self.alpha, self.sigma)]
        alpha, sigma = (torch.zeros_like(t) if rate is None else rate for rate in rates)
        return alpha, sigma

    def at_angle(self, angle: Tensor) -> Tensor:
        """Inverse of :meth:`angle`. Default: bisection, then one Newton step so that derivatives pass through."""
        low, high = torch.zeros_like(angle), torch.ones_like(angle)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.angle(middle) < angle
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        t = ((low + high) / 2).detach()
        alpha, sigma = self.alpha(t), self.sigma(t)
        alpha_rate, sigma_rate = self.rates(t)
        slope = (alpha * sigma_rate - sigma * alpha_rate) / (alpha**2 + sigma**2)
        return torch.where(slope.isfinite() & (slope > 0), t - (self.angle(t) - angle) / slope, t).clamp(0, 1)

    def time(self, logsnr: Tensor) -> Tensor:
        """Inverse of :meth:`logsnr`."""
        return self.at_angle(torch.atan(torch.exp(-logsnr / 2)))


@dataclass(frozen=True)
class Linear(Schedule):
    """The straight line of flow matching (Lipman 2023, Liu 2023): alpha = 1 - t, sigma = t."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 * t

    def at_angle(self, angle: Tensor) -> Tensor:
        return angle.sin() / (angle.sin() + angle.cos())


@dataclass(frozen=True)
class Cosine(Schedule):
    """The quarter circle at even pace (Nichol & Dhariwal 2021; ``offset=0.008`` is their small head start of noise)."""

    offset: float = 0.0

    def _phase(self, t: Tensor) -> Tensor:
        return (t + self.offset) / (1 + self.offset) * (math.pi / 2)

    @property
    def _at_zero(self) -> float:
        return math.cos(self.offset / (1 + self.offset) * math.pi / 2)

    def alpha(self, t: Tensor) -> Tensor:
        return self._phase(t).cos().clamp_min(0) / self._at_zero  # in float32 pi / 2 lies beyond the quarter circle

    def sigma(self, t: Tensor) -> Tensor:
        if self.offset == 0:
            return self._phase(t).sin()
        # 1 - cos^2(a)/cos^2(b) = sin(a - b) sin(a + b) / cos^2(b), which does not cancel at t = 0
        phase, start = self._phase(t), self._phase(torch.zeros_like(t))
        return ((phase - start).sin() * (phase + start).sin()).clamp_min(0).sqrt() / self._at_zero

    def at_angle(self, angle: Tensor) -> Tensor:
        phase = torch.acos((angle.cos() * self._at_zero).clamp(-1, 1)) if self.offset else angle
        return phase / (math.pi / 2) * (1 + self.offset) - self.offset


@dataclass(frozen=True)
class VP(Schedule):
    """Variance-preserving SDE (Song 2021): log alpha = -t^2 (beta_max - beta_min)/4 - t beta_min/2. DDPM in the limit."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def _log_alpha(self, t: Tensor) -> Tensor:
        return -t * (t * (self.beta_max - self.beta_min) / 4 + self.beta_min / 2)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def at_angle(self, angle: Tensor) -> Tensor:
        loss = torch.log1p(angle.tan() ** 2) / 2  # -log cos(angle), exact for small angles
        half = self.beta_min / 2
        return 2 * loss / (half + (half**2 + (self.beta_max - self.beta_min) * loss).sqrt())


@dataclass(frozen=True)
class VE(Schedule):
    """Variance-exploding SDE (Song 2021): alpha = 1, sigma from sigma_min to sigma_max by a constant ratio."""

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def at_angle(self, angle: Tensor) -> Tensor:
        return (angle.tan() / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM(Schedule):
    """Karras 2022 (EDM, eq. 5) in continuous time: alpha = 1, sigma^(1/rho) straight from sigma_min to sigma_max."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    @property
    def _ends(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        low, high = self._ends
        return (low + t * (high - low)) ** self.rho

    def at_angle(self, angle: Tensor) -> Tensor:
        low, high = self._ends
        return (angle.tan() ** (1 / self.rho) - low) / (high - low)


@dataclass(frozen=True)
class LogLinear(Schedule):
    """Constant ratio of noise-to-signal from step to step, on the unit circle: log-SNR is straight in t."""

    sigma_min: float = 0.01
    sigma_max: float = 100.0

    def _ratio(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(t * math.log(self.sigma_max / self.sigma_min))

    def alpha(self, t: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + self._ratio(t) ** 2)

    def sigma(self, t: Tensor) -> Tensor:
        return 1 / torch.sqrt(1 + self._ratio(t) ** -2)

    def at_angle(self, angle: Tensor) -> Tensor:
        return (angle.tan() / self.sigma_min).log() / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class Sigmoid(Schedule):
    """Jabri 2022: alpha^2 falls as a piece of the logistic curve between ``start`` and ``end``, of temperature ``tau``."""

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0

    def _curve(self, t: Tensor) -> tuple[Tensor, float, float]:
        low, high = (1 / (1 + math.exp(-x / self.tau)) for x in (self.start, self.end))
        return torch.sigmoid((self.start + t * (self.end - self.start)) / self.tau), low, high

    def alpha(self, t: Tensor) -> Tensor:
        here, low, high = self._curve(t)
        return ((high - here) / (high - low)).clamp_min(0).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        here, low, high = self._curve(t)
        return ((here - low) / (high - low)).clamp_min(0).sqrt()

    def at_angle(self, angle: Tensor) -> Tensor:
        _, low, high = self._curve(angle)
        here = torch.logit(low + angle.sin() ** 2 * (high - low))
        return (here * self.tau - self.start) / (self.end - self.start)


@lru_cache(maxsize=32)
def _log_products(betas: tuple[float, ...]) -> Tensor:
    return torch.cat(
        [torch.zeros(1, dtype=torch.float64), torch.log1p(-torch.tensor(betas, dtype=torch.float64)).cumsum(0)]
    )


@dataclass(frozen=True)
class Table(Schedule):
    """A table of DDPM betas made continuous: t = i / len(betas) is the state after i steps; log alpha^2 is straight between.

    Raises:
        ValueError: a beta outside (0, 1).
    """

    betas: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.betas or not all(0 < beta < 1 for beta in self.betas):
            raise ValueError("Table needs betas between 0 and 1 (exclusive), at least one")

    def __hash__(self) -> int:  # of a thousand numbers it would cost as much as a step of a sampler
        return hash((len(self.betas), self.betas[0], self.betas[-1]))

    def _log_alpha2(self, t: Tensor) -> Tensor:
        knots = _log_products(self.betas).to(t.device)
        place = t.detach() * len(self.betas)
        left = place.floor().long().clamp(0, len(self.betas) - 1)
        start, slope = knots[left], knots[left + 1] - knots[left]
        return (start + slope * (t.double() * len(self.betas) - left)).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return (self._log_alpha2(t) / 2).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(self._log_alpha2(t))).clamp_min(0).sqrt()


@dataclass(frozen=True)
class Shifted(Schedule):
    """``schedule`` with k times more noise for the signal at every t: logsnr - 2 log k (SD3, Esser 2024, sec. 5.3.2).

    The walk stays on the path of ``schedule``; only its pace changes. On the straight line t becomes k t / (1 + (k-1) t).
    """

    schedule: Schedule
    k: float

    def _time(self, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return self.schedule.at_angle(torch.atan2(self.k * sigma, alpha))

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(self._time(t)).clamp_min(0)  # rounding may lead beyond pure noise

    def sigma(self, t: Tensor) -> Tensor:
        return self.schedule.sigma(self._time(t)).clamp_min(0)

    def at_angle(self, angle: Tensor) -> Tensor:
        return self.schedule.at_angle(torch.atan2(angle.sin() / self.k, angle.cos()))


@dataclass(frozen=True)
class ZeroTerminal(Schedule):
    """A variance-preserving ``schedule`` stretched until no signal is left at t = 1 (Lin 2023, "zero terminal SNR").

    The answer must then be data, v or velocity: the noise answer says nothing about the data where there is none.
    """

    schedule: Schedule

    def _ends(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha(torch.zeros_like(t)), self.schedule.alpha(torch.ones_like(t))

    def alpha(self, t: Tensor) -> Tensor:
        first, last = self._ends(t)
        return (self.schedule.alpha(t) - last) * first / (first - last)

    def sigma(self, t: Tensor) -> Tensor:
        first, last = self._ends(t)
        if bool((first == 1).all()):  # 1 - alpha^2 without cancellation near t = 0
            lost = self.schedule.sigma(t) ** 2 / (1 + self.schedule.alpha(t)) / (1 - last)
            return (lost * (1 + self.alpha(t))).clamp_min(0).sqrt()
        return (1 - self.alpha(t) ** 2).clamp_min(0).sqrt()
