"""Solvers that add fresh noise on the way: of the reverse-time SDE, and of the flow made random. Gaussian processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import along, blend
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.flow_solvers import DPMpp2S, Heun
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Euler, Solver, still


@dataclass(frozen=True)
class Churn(Solver):
    """EDM's stochastic sampler (Karras 2022, alg. 2): raise the noise a little, then a Heun step down from there, or one of
    DPM-Solver++ 2S as GenCast has it.

    Args:
        churn: S_churn, noise added over the whole walk; each of the n steps raises sigma by min(churn / n, sqrt(2) - 1).
        low, high: range of sigma / alpha in which noise is added (S_tmin, S_tmax), in units of the data's spread.
        inflation: S_noise, factor on the added noise. Karras used 1.003 for a network that removes a little too much;
            anything but 1 is a bias that no number of steps removes.
        middle: step down by :class:`~sfumato.diffusion.flow_solvers.DPMpp2S` instead of Heun's method.
    """

    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflation: float = 1.0
    middle: bool = False
    order: int = 1

    def prepare(self, times: Tensor) -> int:
        return len(times) - 1

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: int, rng: Rng) -> tuple[Tensor, int]:
        schedule = guess.process.schedule
        ratio = schedule.angle(t).tan()
        gamma = min(self.churn / memory, math.sqrt(2) - 1)
        inside = (ratio >= self.low) & (ratio <= self.high) & (gamma > 0) & (s < t)
        raised = schedule.time(schedule.logsnr(t) - 2 * math.log1p(gamma))
        up = torch.where(inside & (raised <= 1), raised, t)
        scale = torch.where(up > t, schedule.alpha(up) / schedule.alpha(t), torch.ones_like(t))
        added = (schedule.sigma(up) ** 2 - (scale * schedule.sigma(t)) ** 2).clamp_min(0).sqrt()
        x_up = along(scale, x_t) * x_t + along(added * self.inflation, x_t) * guess.process.prior(x_t, rng)
        down: Solver = DPMpp2S() if self.middle else Heun()
        return down.step(guess, x_up, up, s, None, rng)[0], memory


@dataclass(frozen=True)
class Overstep(Solver):
    """AlphaFold 3's sampler (Abramson et al. 2024, algorithm 18): raise the noise by a fixed share of itself, then take
    Euler's step from there, and more than all of it.

    Not a method that ends at the model's distribution with ever more steps: ``step`` above 1 is a low temperature, which makes
    samples more regular and less different, and so does less ``noise``. With gamma = 0, step = 1 it is Euler's method.

    Args:
        gamma: share by which sigma / alpha is raised at every step that begins above ``low`` (gamma_0).
        low: least sigma / alpha at the end of a step at which that is done, in units of the data's spread (gamma_min).
        noise: factor on the added noise (noise_scale).
        step: factor on the step (step_scale).

    Raises:
        ValueError: a gamma below 0, or a step or noise that is not above 0.
    """

    gamma: float = 0.8
    low: float = 0.0625
    noise: float = 1.003
    step_scale: float = 1.5
    order: int = 1

    def __post_init__(self) -> None:
        for good, name in (
            (0 <= self.gamma < math.inf, "gamma"),
            (0 < self.noise < math.inf, "noise"),
            (0 < self.step_scale < math.inf, "step_scale"),
        ):
            if not good:
                raise ValueError(
                    f"{name} = {getattr(self, name)}: must be {'0 or more' if name == 'gamma' else 'above 0'}"
                )

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        schedule = guess.process.schedule
        there = schedule.angle(s).tan()
        raised = schedule.time(schedule.logsnr(t) - 2 * math.log1p(self.gamma))
        up = torch.where((there > self.low) & (s < t) & (self.gamma > 0), raised.clamp_max(1.0), t)
        scale = torch.where(up > t, schedule.alpha(up) / schedule.alpha(t), torch.ones_like(t))
        added = (schedule.sigma(up) ** 2 - (scale * schedule.sigma(t)) ** 2).clamp_min(0).sqrt()
        x_up = along(scale, x_t) * x_t + along(added * self.noise, x_t) * guess.process.prior(x_t, rng)
        whole = guess.process.step(guess(x_up, up), x_up, up, s)  # where Euler's step ends
        alpha = schedule.alpha(s) / schedule.alpha(up)
        stay = along(alpha, x_up) * x_up  # the same point of x / alpha, at s
        return stay + self.step_scale * (whole - stay), None


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """Euler-Maruyama on the reverse-time SDE (Song 2021, eq. 6) in t. Weak order 1.

    Raises:
        ValueError: the walk starts where no data is left (alpha = 0): there the SDE's drift is infinite.
    """

    order: int = 1

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        schedule = guess.process.schedule
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        if bool(((alpha < 1e-6) & (s < t)).any()):
            raise ValueError(
                f"EulerMaruyama cannot start at pure noise (alpha = 0), as on {schedule}: use a VP or VE schedule, or "
                "Euler(eta=1)"
            )
        alpha_rate, sigma_rate = schedule.rates(t)
        drift = alpha_rate / alpha
        diffusion = 2 * sigma * (sigma_rate - drift * sigma)  # g(t)^2
        z = guess(x_t, t).z
        flow = along(drift, x_t) * x_t + along(diffusion / sigma, x_t) * z  # f x - g^2 score, score = -z / sigma
        noise = along((diffusion * (t - s)).clamp_min(0).sqrt(), x_t) * guess.process.prior(x_t, rng)
        return x_t - along(t - s, x_t) * flow + noise, None


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Predictor-corrector sampling (Song 2021, alg. 1): an Euler step, then Langevin steps at the level reached.

    A Langevin step is a partial renewal of the guessed noise at the same level, which keeps its variance exactly. Its
    size goes with the step in log-SNR, so that the corrector's own bias vanishes as the steps shrink (with Song's fixed
    signal-to-noise ratio it does not).

    Args:
        strength: Langevin time per unit of log-SNR walked; corrections: Langevin steps (one call each) a step.
    """

    strength: float = 0.5
    corrections: int = 1
    order: int = 1

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        process, schedule = guess.process, guess.process.schedule
        x_t = still(x_t, Euler().step(guess, x_t, t, s, None, rng)[0], t, s)
        settled = (schedule.sigma(s) < 1e-6) | (t == s)  # pure data, or a place where time stands still
        if bool(settled.all()):
            return x_t, None
        walked = (schedule.logsnr(s) - schedule.logsnr(t)).clamp_max(1e30)  # infinite from pure noise
        share = -torch.expm1(-self.strength * walked / self.corrections).clamp_max(0)
        for _ in range(self.corrections):
            x, z = guess(x_t, s)
            moved = process.interpolate(x, blend((1 - share).sqrt(), z, share.sqrt(), process.prior(z, rng)), s)
            x_t = torch.where(along(settled, x_t) > 0, x_t, moved) if bool(settled.any()) else moved
        return x_t, None


@dataclass(frozen=True)
class Renoised(Solver):
    """A solver of the probability flow made random without losing its order, for Gaussian processes: it walks further
    down than asked, r < s, and fresh noise lifts the point to s by the forward kernel, which is exact.

    The ancestral chain (``Euler(eta=1)``) is of first weak order, and errors of deviation are magnified in a tail: at
    3.7 deviations, 14 times. This walk has the order of its solver. (EDM's churn with the two halves exchanged, so that
    the network is first asked about x_t itself; the second-order ancestral samplers of k-diffusion are its kin.)

    Args:
        solver: deterministic and without memory.
        eta: eta^2 (1 - SNR_t / SNR_s) of the noise's variance at s is fresh; 1 is as much as in the Markov chain.

    Raises:
        ValueError: eta outside 0..1.
    """

    solver: Solver = Heun()
    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be 0 to 1, got {self.eta}")

    @property
    def order(self) -> int:
        return self.solver.order

    def prepare(self, times: Any) -> Any:
        return self.solver.prepare(times)

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Any, rng: Rng) -> tuple[Tensor, Any]:
        schedule = guess.process.schedule
        here, there, least = (schedule.angle(u).tan() for u in (t, s, torch.zeros_like(s)))
        # no further down than the schedule goes: one that ends with some noise keeps that
        fresh = torch.minimum(self.eta**2 * (1 - (there / here) ** 2), 1 - (least / there) ** 2)
        fresh = torch.where(there > least, fresh, 0.0)
        r = schedule.at_angle(torch.atan(there * (1 - fresh).sqrt())).clamp(0, 1)
        x_r, memory = self.solver.step(guess, x_t, t, r, memory, rng)
        lift, noise = schedule.alpha(s) / schedule.alpha(r), schedule.sigma(s) * fresh.sqrt()
        return along(lift, x_r) * x_r + along(noise, x_r) * guess.process.prior(x_r, rng), memory
