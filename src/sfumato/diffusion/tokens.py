r"""Tokens: what the worlds of discrete data share, and the world in which noise is a random token.

A token x keeps its value until its moment z comes: it is still there at time t with probability alpha(t). What becomes
of it then is the only difference between the worlds: a mask (``masked.py``) or a random token (here). Both rest on one
rule of Bayes. The network answers with logits of the token as far as the *other* tokens tell; what x_t itself tells is
known exactly and is added by the process,

    p(x | x_t)  ~  softmax(answer)(x)  q(x_t | x),

for masks this is "carry-over": a token that is still there is certain. A step then follows q(x_s | x_t, x) averaged
over that guess. So a network cannot forget what it sees, and constant answers make steps of any length exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.denoiser import Denoiser
from sfumato.diffusion.loss import loss
from sfumato.diffusion.process import Endpoints, States, lerp
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.weights import kept, mean_counted
from sfumato.errors import NonFiniteSample

F64 = torch.float64
NEVER = -1e30
"""Log-probability of what cannot be: finite, so that guidance may mix guesses (infinities have no difference)."""


# ---- what both worlds use --------------------------------------------------------------------------------------------


def needs_both_ends(schedule: Schedule) -> None:
    """Complain unless every token is there at t = 0 and none at t = 1."""
    first, last = schedule.alpha(torch.tensor([0.0, 1.0], dtype=F64)).tolist()
    if abs(first - 1) > 1e-6 or abs(last) > 1e-6:
        raise ValueError(
            f"tokens need a schedule with alpha(0) = 1 and alpha(1) = 0, {schedule} has {first:.3g} and {last:.3g}: "
            f"use ZeroTerminal({type(schedule).__name__}(...)), or Linear()"
        )


def share(schedule: Schedule, t: Tensor, x: Tensor) -> Tensor:
    """alpha(t), the probability that a token is still there, exactly 1 and 0 at the ends: float64, broadcasts with x (B, L)."""
    t = t.to(device=x.device, dtype=F64)
    alpha = schedule.alpha(t).clamp(0, 1)
    alpha = torch.where(t <= 0, 1.0, torch.where(t >= 1, 0.0, alpha))
    return alpha[:, None] if alpha.ndim == 1 else alpha


def loss_rate(schedule: Schedule, t: Tensor, x: Tensor) -> Tensor:
    """-d alpha/dt >= 0, float64, broadcasts with x (B, L); some schedules leave or arrive at infinite speed."""
    rate = -schedule.rates(t.to(device=x.device, dtype=F64).clamp(1e-12, 1 - 1e-12))[0]
    return rate[:, None] if rate.ndim == 1 else rate


def level(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """What a network is told of the noise: ln((1 - alpha) / alpha) in (-12, 7), float32, (B,), or (B, L) if t has tokens."""
    alpha = share(schedule, t, x_t)
    odds = torch.logit(1 - alpha).clamp(-12, 7).to(torch.float32)
    return odds.expand(x_t.shape) if t.ndim == 2 else odds.expand(len(x_t), 1)[:, 0]


def check_tokens(x: Tensor) -> None:
    """Complain unless x holds tokens: int64 (B, L)."""
    if x.dtype != torch.int64 or x.ndim != 2:
        raise ValueError(f"tokens are int64 of shape (B, L), got {x.dtype} of shape {tuple(x.shape)}")


def check_logits(answer: Tensor, x: Tensor) -> None:
    """Complain unless an answer has one row of logits per token: (B, L, V)."""
    if answer.ndim != 3 or answer.shape[:2] != x.shape or not answer.is_floating_point():
        raise ValueError(
            f"the answer about tokens {tuple(x.shape)} must be logits of shape {(*x.shape, 'V')}, "
            f"got {answer.dtype} of shape {tuple(answer.shape)}"
        )


def wide(answer: Tensor) -> Tensor:
    """Logits in float32 or wider, whatever the network ran in."""
    return answer if answer.dtype == F64 else answer.to(torch.float32)


def best(x: Tensor) -> Tensor:
    """Tokens (B, L), or the likeliest tokens of log-probabilities (B, L, V)."""
    return x.argmax(-1) if x.is_floating_point() else x


def certain(x: Tensor, vocab: int) -> Tensor:
    """Tokens (...) as probabilities (..., V), float64."""
    return torch.nn.functional.one_hot(x, vocab).to(F64)


def probabilities(x: Tensor, vocab: int) -> Tensor:
    """The guess of the data as probabilities (..., V), float64: from tokens (...), or log-probabilities (..., V), which
    need not be normalised (guidance leaves them so)."""
    return torch.softmax(x.to(F64), -1) if x.is_floating_point() else certain(x, vocab)


def draw(probabilities: Tensor, u: Tensor) -> Tensor:
    """Tokens (...) from probabilities (..., V) by one uniform number in [0, 1) each: the inverse distribution function.

    In float64, so that a probability of 1e-9 is drawn as often as it says (in float32 it is not; Zheng 2024, arXiv
    2409.02908), and a probability of zero never.

    Raises:
        NonFiniteSample: probabilities that are not finite, of which any token could be made, one that is none included.
    """
    steps = probabilities.to(F64).cumsum(-1)
    total = steps[..., -1]
    if not bool(total.isfinite().all()):
        raise NonFiniteSample(
            "the network answers NaN or infinity, so there is no token to draw; nothing of it is kept. Train again with a lower "
            "--optim.lr, or with --precision fp32"
        )
    # rounding must not reach the end of the table
    place = torch.minimum(u.to(F64) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(steps.contiguous(), place[..., None].contiguous(), right=True)[..., 0]


# ---- uniform noise ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UniformTokens:
    """Tokens whose noise is a random token, so that a sampler may revise what it wrote (Austin 2021, Schiff 2024).

    q(x_t | x) = alpha [x_t = x] + (1 - alpha) / vocab. The noise z, float64 in [0, vocab), is one number per token: its
    floor is the replacement, its fraction the level of alpha below which the token is replaced.

    Args:
        vocab: number of tokens V.
        schedule: alpha is the probability that a token was never replaced; 1 at t = 0 and 0 at t = 1.

    Raises:
        ValueError: vocab below 2, or a schedule that does not reach both ends.
    """

    vocab: int
    schedule: Schedule = Linear()

    states: ClassVar[States] = "tokens"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "euler", "grid": "uniform", "eta": 1.0}

    def __post_init__(self) -> None:
        if self.vocab < 2:
            raise ValueError(f"vocab must be at least 2, got {self.vocab}")
        needs_both_ends(self.schedule)

    def share(self, x: Tensor, t: Tensor) -> Tensor:
        """alpha(t), held at 1 where the fraction of z could not tell it from 1."""
        alpha = share(self.schedule, t, x)
        return torch.where(1 - alpha < self.vocab * 2.0**-50, 1.0, alpha)

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        """Noise (B, L), float64 in [0, vocab), for tokens x (B, L).

        Raises:
            ValueError: x is not int64 (B, L), or holds a token outside the vocabulary.
        """
        check_tokens(x)
        self._check_range(x)
        return self.vocab * uniform_like(x, rng)

    def start(self, z: Tensor) -> Tensor:
        return z.floor().long().clamp(0, self.vocab - 1)

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """x_t (B, L) from tokens (B, L), or log-probabilities (B, L, V) of which the likeliest is taken."""
        x = best(x)
        return torch.where(z - z.floor() < self.share(x, t), x, self.start(z))

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, level(self.schedule, x_t, t)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x

    def belief(self, answer: Tensor, x_t: Tensor) -> Tensor:
        """Log-probabilities (B, L, V) of the token without what x_t itself tells about it; tokens mean certainty."""
        if not answer.is_floating_point() and answer.shape == x_t.shape:
            return certain(answer, self.vocab).log()
        check_logits(answer, x_t)
        if answer.shape[-1] != self.vocab:
            raise ValueError(f"the answer has {answer.shape[-1]} logits per token, the vocabulary {self.vocab} tokens")
        return torch.log_softmax(wide(answer), -1)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        """x: log-probabilities (B, L, V) of the data's token given all of x_t. z: noise with which they explain x_t."""
        belief, alpha = self.belief(answer, x_t), self.share(x_t, t)
        known = (alpha == 1).expand(x_t.shape)
        evidence = torch.log1p(alpha * self.vocab / torch.where(alpha == 1, 1.0, 1 - alpha)).expand(x_t.shape)
        here = x_t[..., None]
        weighed = belief.scatter_add(-1, here, evidence[..., None].to(belief.dtype))
        sure = certain(x_t, self.vocab).log().to(belief.dtype)
        x = torch.where(known[..., None], sure, torch.log_softmax(weighed, -1)).clamp_min(NEVER)
        kept = best(x) == x_t
        z = x_t + torch.where(kept, alpha / 2, (1 + alpha) / 2)
        return Endpoints(x, torch.minimum(z, torch.nextafter(x_t + z.new_ones(()), z.new_zeros(()))))

    def transition(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Law of x_s given x_t and the guess: probabilities (B, L, V), float64.

        The Markov chain's posterior q(x_s | x_t, x) ~ q(x_t | x_s) q(x_s | x), averaged over the guess of x.
        """
        guess = probabilities(ends.x, self.vocab)
        a_t, a_s = (self.share(x_t, u)[..., None] for u in (t, s))
        kept = torch.where(a_s > 0, a_t / a_s.clamp_min(1e-300), 1.0)  # alpha from s to t
        here = certain(x_t, self.vocab)
        reached = a_t * here + (1 - a_t) / self.vocab  # q(x_t | x) for each x
        weight = torch.where(guess > 0, guess / reached.clamp_min(1e-300), 0.0)
        before = a_s * weight + (1 - a_s) / self.vocab * weight.sum(-1, keepdim=True)
        law = (kept * here + (1 - kept) / self.vocab) * before
        return law / law.sum(-1, keepdim=True)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        """Draw x_s (B, L). Tokens have no deterministic limit: ``eta`` changes nothing, the step is the Markov chain's."""
        return draw(self.transition(ends, x_t, t, s), uniform_like(x_t, rng))

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return Endpoints(lerp(weak.x, strong.x, w), strong.z)

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Continuous-time bound on -log p(x), nats per token: (B,).

        With the forward rate beta / V from any token to any other (beta = -alpha' / alpha), the reverse jump x_t -> y
        has rate beta / V times r(y) = q(y | x) / q(x_t | x) given the data, and r'(y), the same with the belief in place
        of x, in the model. The relative entropy of the two jump processes is, per unit of time, beta / V times the sum
        over y of r' - r - r log(r' / r) (Lou 2024, arXiv 2310.16834; Schiff 2024, arXiv 2412.10193).
        """
        check_tokens(x)
        self._check_range(x)
        x_t, alpha = self.interpolate(x, z, t), self.share(x, t)[..., None]
        belief = self.belief(kept(answer, x.shape, t, weight), x).to(F64).exp()
        data, here, floor = certain(x, self.vocab), x_t[..., None], (1 - alpha) / self.vocab

        def excess(p: Tensor) -> Tensor:  # (ratio - 1) / alpha, which does not cancel when alpha is small
            mine = p.gather(-1, here)
            return (p - mine) / (alpha * mine + floor).clamp_min(1e-300)

        wanted = excess(data)
        difference = alpha * (excess(belief) - wanted)
        ratio = (1 + alpha * wanted).clamp_min(1e-30)
        cost = difference - ratio * torch.log1p((difference / ratio).clamp_min(-1 + 1e-16))
        speed = loss_rate(self.schedule, t, x) / self.share(x, t).clamp_min(1e-30)
        return mean_counted(speed / self.vocab * cost.sum(-1), t, weight)

    def _check_range(self, x: Tensor) -> None:
        if bool(((x < 0) | (x >= self.vocab)).any()):
            raise ValueError(f"token {int(x.min())} or {int(x.max())} is outside the vocabulary 0 to {self.vocab - 1}")


# ---- likelihood ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def elbo(denoiser: Denoiser, x: Tensor, draws: int = 64, rng: Rng = None, **condition: Any) -> tuple[Tensor, Tensor]:
    """Bound on -log p(x), in nats per sequence: mean (B,) and its standard error (B,). For Masked and UniformTokens.

    Two independent draws fall into each of draws / 2 equal strata of time; their differences measure the error. Time is
    stretched at both ends, t = v^2 (3 - 2 v), where the integrand may grow without bound.

    Raises:
        ValueError: draws is odd or below 2.
    """
    if draws < 2 or draws % 2:
        raise ValueError(f"draws must be even and at least 2, got {draws}")
    strata = draws // 2
    values = []
    for i in range(draws):
        v = (i // 2 + uniform_like(x, rng, (len(x),))) / strata
        values.append(loss(denoiser, x, v * v * (3 - 2 * v), rng, **condition).to(F64) * 6 * v * (1 - v) * x.shape[1])
    pairs = torch.stack(values).reshape(strata, 2, len(x))
    error = ((pairs[:, 0] - pairs[:, 1]) ** 2).sum(0).sqrt() / draws
    return pairs.mean((0, 1)), error
