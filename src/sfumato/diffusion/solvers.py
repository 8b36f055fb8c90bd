r"""Solvers of the probability flow and of its stochastic twins, for Gaussian processes.

On the quarter circle, y = x_t / hypot(alpha, sigma) = cos(a) x + sin(a) z at angle a, and the flow is

    dy/da = -sin(a) x(a) + cos(a) z(a)

with x(a), z(a) the endpoints that the denoiser guesses along the way. If they stand still, one step of any length is
exact: that is Euler's method, known as DDIM. The solvers of higher order here let the guessed endpoints move along a
polynomial in the angle and integrate against sin and cos exactly. The angle, unlike log-SNR or sigma / alpha, is finite
at both ends, so the same solver serves a schedule that starts at pure noise and ends at pure data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sfumato.diffusion.coefficients import along, blend, plus, remembered
from sfumato.diffusion.denoiser import Guess
from sfumato.diffusion.process import Endpoints, normal_like
from sfumato.diffusion.quadrature import gauss_legendre
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.sample import Euler, Solver
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
    x_s = along(kept, x_t) * x_t
    for node, on_x, on_z in zip(nodes, weights[::2], weights[1::2], strict=True):
        x_s = plus(plus(x_s, on_x, node.ends.x), on_z, node.ends.z)
    return x_s


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


@remembered
def _last(schedule: Schedule, s: Tensor) -> tuple[Tensor]:
    """Whether a step to s ends at pure data, where a denoiser cannot be asked for the noise any more."""
    return ((schedule.angle(s) < 1e-6).any(),)


@dataclass(frozen=True)
class Heun:
    """Heun's method (EDM, Karras 2022, alg. 1, here in the angle): two calls a step, order 2, Euler at the very end."""

    order: int = 2

    def prepare(self, times: Tensor) -> None:
        return None

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: None, rng: Rng) -> tuple[Tensor, None]:
        schedule = guess.process.schedule
        here = Node(t, guess(x_t, t))
        x_s = follow(schedule, x_t, t, s, here)
        if _last(schedule, s)[0]:
            return x_s, None
        return follow(schedule, x_t, t, s, Node(s, guess(x_s, s)), here), None


@dataclass(frozen=True)
class DPMpp2M:
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
            now, then = _ahead((process.schedule, self.eta), before, t, s)
            x = blend(now, found, then, x_before)
        ends = Endpoints(x, process.noise_given(x, x_t, t))
        return process.step(ends, x_t, t, s, self.eta, rng), (t, found)


@remembered
def _ahead(owner: tuple[Schedule, float], before: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Factors on the guesses at t and before it that extrapolate them, see :class:`DPMpp2M`."""
    schedule, eta = owner
    past, here, there = (schedule.logsnr(time) for time in (before, t, s))
    ratio = (there - here) / (2 * (here - past))  # 1 / (2 r) of the paper
    if eta != 0:  # the share of the noise kept in two steps, see Gaussian.renoise
        renewed = min(eta, 1.0) ** 2
        ratio = ratio * (1 + renewed * torch.expm1(past - here)) * (1 + renewed * torch.expm1(here - there))
    ratio = ratio.nan_to_num(0, 0, 0)
    return 1 + ratio, -ratio


@dataclass(frozen=True)
class Multistep:
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
        last = _last(schedule, s)[0]
        here = Node(t, guess(x_t, t) if pending is None else pending)
        nodes = (here, *past)
        if not past and self.order == 4 and not last:
            nodes = (self._middle(guess, x_t, t, s, here), here)
        used = nodes[: self.order - self.corrector]
        x_s = follow(schedule, x_t, t, s, *used, cautious=0)
        starting = not past and self.order >= 3
        if last or not (self.corrector or starting):
            return x_s, (None, nodes[:3])
        there = guess(x_s, s)
        return follow(schedule, x_t, t, s, Node(s, there), *used, cautious=1), (there, nodes[:3])

    def _middle(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, here: Node) -> Node:
        """One more node in the middle of the first step, accurate to third order: two calls."""
        schedule = guess.process.schedule
        middle = schedule.at_angle((schedule.angle(t) + schedule.angle(s)) / 2)
        first = Node(middle, guess(follow(schedule, x_t, t, middle, here), middle))
        return Node(middle, guess(follow(schedule, x_t, t, middle, first, here), middle))


@dataclass(frozen=True)
class Churn:
    """EDM's stochastic sampler (Karras 2022, alg. 2): raise the noise a little, then a Heun step down from there.

    Args:
        churn: S_churn, noise added over the whole walk; each of the n steps raises sigma by min(churn / n, sqrt(2) - 1).
        low, high: range of sigma / alpha in which noise is added (S_tmin, S_tmax), in units of the data's spread.
        inflation: S_noise, factor on the added noise. Karras used 1.003 for a network that removes a little too much;
            anything but 1 is a bias that no number of steps removes.
    """

    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflation: float = 1.0
    order: int = 1

    def prepare(self, times: Tensor) -> int:
        return len(times) - 1

    def step(self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: int, rng: Rng) -> tuple[Tensor, int]:
        schedule = guess.process.schedule
        ratio = schedule.angle(t).tan()
        gamma = min(self.churn / memory, math.sqrt(2) - 1)
        inside = (ratio >= self.low) & (ratio <= self.high) & (gamma > 0)
        raised = schedule.time(schedule.logsnr(t) - 2 * math.log1p(gamma))
        up = torch.where(inside & (raised <= 1), raised, t)
        scale = torch.where(up > t, schedule.alpha(up) / schedule.alpha(t), torch.ones_like(t))
        added = (schedule.sigma(up) ** 2 - (scale * schedule.sigma(t)) ** 2).clamp_min(0).sqrt()
        x_up = along(scale, x_t) * x_t + along(added * self.inflation, x_t) * normal_like(x_t, rng)
        return Heun().step(guess, x_up, up, s, None, rng)[0], memory


@dataclass(frozen=True)
class EulerMaruyama:
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
        if bool((alpha < 1e-6).any()):
            raise ValueError(
                "EulerMaruyama cannot start at pure noise (alpha = 0): use a VP or VE schedule, or Euler(eta=1)"
            )
        alpha_rate, sigma_rate = schedule.rates(t)
        drift = alpha_rate / alpha
        diffusion = 2 * sigma * (sigma_rate - drift * sigma)  # g(t)^2
        z = guess(x_t, t).z
        flow = along(drift, x_t) * x_t + along(diffusion / sigma, x_t) * z  # f x - g^2 score, score = -z / sigma
        noise = along((diffusion * (t - s)).clamp_min(0).sqrt(), x_t) * normal_like(x_t, rng)
        return x_t - along(t - s, x_t) * flow + noise, None


@dataclass(frozen=True)
class PredictorCorrector:
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
        process = guess.process
        x_t, _ = Euler().step(guess, x_t, t, s, None, rng)
        if bool((process.schedule.sigma(s) < 1e-6).any()):  # pure data
            return x_t, None
        walked = (process.schedule.logsnr(s) - process.schedule.logsnr(t)).clamp_max(1e30)  # infinite from pure noise
        share = -torch.expm1(-self.strength * walked / self.corrections).clamp_max(0)
        for _ in range(self.corrections):
            x, z = guess(x_t, s)
            x_t = process.interpolate(x, blend((1 - share).sqrt(), z, share.sqrt(), normal_like(z, rng)), s)
        return x_t, None


class NotMet(RuntimeError):
    """A tolerance that could not be kept within the calls allowed."""


@dataclass(frozen=True)
class AdaptiveSolver:
    """Error-controlled steps, each sample at its own pace (Bogacki & Shampine 1989, orders 3 and 2, in the angle).

    Between two times of the grid it takes as many steps as the tolerance asks; ``times = [1, 0]`` leaves all to it. Its
    memory is what each sample has cost: the calls (B,), int64, that its row needed since the start of the walk. The batch
    is called as a whole until its last row arrives, but a row that has arrived counts no more.

        x_s, calls = AdaptiveSolver().step(guess, x_t, t, s, None, None)

    Args:
        rtol, atol: tolerated local error, relative and absolute (data has unit variance).
        finest: angle, about sigma / alpha, from which the rest is one Euler step: a network is not trained below it.
        most: calls between two times of the grid after which it gives up.

    Raises:
        NotMet: the tolerance was not met within ``most`` calls.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    finest: float = 1e-3
    most: int = 3000
    order: int = 3

    def prepare(self, times: Tensor) -> None:
        return None

    def step(
        self, guess: Guess, x_t: Tensor, t: Tensor, s: Tensor, memory: Tensor | None, rng: Rng
    ) -> tuple[Tensor, Tensor]:
        schedule, rows = guess.process.schedule, len(x_t)
        t, s = (a.to(device=x_t.device, dtype=x_t.dtype).expand(rows) for a in (t, s))
        final = schedule.angle(s)
        end = final.clamp_min(self.finest)  # at pure data the noise cannot be asked for; the rest is one Euler step
        angle = schedule.angle(t).clone()
        step = ((angle - end) / 10).clone()

        def slope(y: Tensor, angle: Tensor) -> tuple[Tensor, Endpoints]:
            at = schedule.at_angle(angle).clamp(0, 1)  # in float32 the quarter circle ends a little beyond pi / 2
            ends = guess(y * along(schedule.hypot(at), y), at)
            return along(-angle.sin(), y) * ends.x + along(angle.cos(), y) * ends.z, ends

        y = x_t / along(schedule.hypot(t), x_t)
        k1, ends = slope(y, angle)
        calls = (angle > final).long()  # a row that stands still needs none
        while bool((under_way := angle > end).any()):
            if int(calls.max()) > self.most:
                raise NotMet(f"tolerance rtol={self.rtol}, atol={self.atol} not met in {self.most} calls: raise it")
            step = torch.minimum(step, angle - end)
            h = along(-step, y)
            k2, _ = slope(y + h * k1 / 2, angle - step / 2)
            k3, _ = slope(y + h * k2 * 0.75, angle - step * 0.75)
            proposed = y + h * (2 * k1 + 3 * k2 + 4 * k3) / 9
            k4, found = slope(proposed, angle - step)
            calls += 3 * under_way
            error = h * (-5 * k1 / 72 + k2 / 12 + k3 / 9 - k4 / 8)
            scale = self.atol + self.rtol * torch.maximum(y.abs(), proposed.abs())
            size = (error / scale).flatten(1).pow(2).mean(1).sqrt().clamp_min(1e-10)
            accept = size <= 1
            angle = torch.where(accept, angle - step, angle)
            angle = torch.where(angle - end < 1e-6, end, angle)
            y, k1 = torch.where(along(accept, y) > 0, proposed, y), torch.where(along(accept, y) > 0, k4, k1)
            ends = Endpoints(
                *(torch.where(along(accept, y) > 0, new, old) for new, old in zip(found, ends, strict=True))
            )
            step = step.clamp_min(1e-9) * (0.9 * size ** (-1 / 3)).clamp(0.2, 5.0)
        at = schedule.at_angle(angle).clamp(0, 1)
        reached = y * along(schedule.hypot(at), y)
        x_s = torch.where(along(final < end, y) > 0, guess.process.step(ends, reached, at, s), reached)
        return x_s, calls if memory is None else memory + calls


# ---- names of the field ------------------------------------------------------------------------------------------------


def euler(eta: float = 0.0) -> Euler:
    """DDIM (Song 2020) and Euler's method of the flow; ``eta`` as in DDIM."""
    return Euler(eta)


def ancestral() -> Euler:
    """DDPM's Markov chain (Ho 2020): Euler with eta = 1."""
    return Euler(1.0)


def heun() -> Heun:
    """Second order, two calls a step."""
    return Heun()


def dpmpp_2m(eta: float = 0.0) -> DPMpp2M:
    """DPM-Solver++(2M); ``eta`` as in :func:`euler`."""
    return DPMpp2M(eta)


def ab(order: int = 3) -> Multistep:
    """Adams-Bashforth in the angle, order 1 to 4."""
    return Multistep(order)


def unipc(order: int = 3) -> Multistep:
    """Predictor and corrector for one call a step, order 2 to 4."""
    return Multistep(order, corrector=True)


SOLVERS: dict[str, Solver] = {
    "euler": Euler(),
    "ancestral": Euler(1.0),
    "heun": Heun(),
    "dpmpp_2m": DPMpp2M(),
    "ab2": Multistep(2),
    "ab3": Multistep(3),
    "ab4": Multistep(4),
    "unipc": Multistep(3, corrector=True),
    "churn": Churn(),
    "euler_maruyama": EulerMaruyama(),
    "predictor_corrector": PredictorCorrector(),
    "adaptive": AdaptiveSolver(),
}
"""Solvers by the name a command line gives them."""
