r"""Masked tokens: noise is a mask that falls over each token at its own moment (Austin 2021; MDLM, Sahoo 2024).

x_t = x where z < alpha(t), the mask elsewhere. All that is to be learned is what stands under the masks, and the bound on
-log p(x) is a cross-entropy there, weighted by how fast tokens are lost: with perfect conditionals it *is* -log p(x), for
every schedule (Sahoo 2024, arXiv 2406.07524; Shi 2024, arXiv 2406.04329).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.process import Endpoints, States, lerp
from sfumato.diffusion.rng import Rng, uniform_like
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.tokens import (
    F64,
    NEVER,
    best,
    certain,
    check_logits,
    check_tokens,
    draw,
    level,
    loss_rate,
    needs_both_ends,
    probabilities,
    share,
    wide,
)
from sfumato.diffusion.weights import kept, mean_counted


@dataclass(frozen=True)
class Masked:
    """Tokens x, int64 (B, L), that turn into a mask. The noise z, float64 (B, L) in [0, 1), is the level of alpha at which
    each token dissolves.

    The network sees x_t with masks and answers logits (B, L, V), where V may or may not count the mask token (mask_id
    below V, or equal to V); the mask is never predicted.

    Args:
        mask_id: the token that stands for "unknown"; it must not occur in data.
        schedule: alpha is the probability that a token is still there: Linear() is the log-linear schedule of MDLM.

    Raises:
        ValueError: a negative mask_id, or a schedule without alpha(0) = 1 and alpha(1) = 0.
    """

    mask_id: int
    schedule: Schedule = Linear()

    states: ClassVar[States] = "tokens"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "confidence", "grid": "uniform", "eta": 1.0}

    def __post_init__(self) -> None:
        if self.mask_id < 0:
            raise ValueError(f"mask_id must not be negative, got {self.mask_id}")
        needs_both_ends(self.schedule)

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        """Noise (B, L), float64 in [0, 1), for tokens x (B, L).

        Raises:
            ValueError: x is not int64 (B, L), or holds a negative token or the mask.
        """
        self._check_data(x)
        return uniform_like(x, rng)

    def start(self, z: Tensor) -> Tensor:
        return torch.full(z.shape, self.mask_id, dtype=torch.int64, device=z.device)

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """x_t (B, L) from tokens (B, L), or log-probabilities (B, L, V) of which the likeliest is taken."""
        x = best(x)
        return torch.where(z < share(self.schedule, t, x), x, self.mask_id)

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t, level(self.schedule, x_t, t)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return x

    def open(self, x_t: Tensor) -> Tensor:
        """Where x_t is still masked: bool (B, L)."""
        return x_t == self.mask_id

    def belief(self, answer: Tensor, x_t: Tensor) -> Tensor:
        """Log-probabilities (B, L, V) from logits, the mask token at -1e30, in float32 or wider; V counts the mask."""
        check_logits(answer, x_t)
        vocab = answer.shape[-1]
        if self.mask_id > vocab:
            raise ValueError(
                f"mask_id {self.mask_id} is beyond the {vocab} logits per token: it may be at most {vocab}"
            )
        answer = wide(answer)
        if self.mask_id == vocab:
            answer = torch.nn.functional.pad(answer, (0, 1))
        barred = torch.arange(answer.shape[-1], device=answer.device) == self.mask_id
        return torch.log_softmax(answer.masked_fill(barred, -torch.inf), -1).clamp_min(NEVER)

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        """x: log-probabilities (B, L, V) of the data's token, certain where x_t is not masked; tokens (B, L) for an answer
        of tokens. z: a level with which they explain x_t."""
        open_, alpha = self.open(x_t), share(self.schedule, t, x_t)
        alive = torch.where(alpha > 0, alpha / 2, -1.0)  # below zero a token stands even at t = 1: it was given
        z = torch.where(open_, (1 + alpha) / 2, alive)
        if not answer.is_floating_point() and answer.shape == x_t.shape:
            return Endpoints(torch.where(open_, answer, x_t), z)
        x = self.belief(answer, x_t)
        sure = torch.full_like(x, NEVER).scatter(-1, x_t[..., None], 0.0)
        return Endpoints(torch.where(open_[..., None], x, sure), z)

    def gain(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Probability that a token masked at t is revealed at s: float64, broadcasts with x_t (B, L)."""
        a_t, a_s = share(self.schedule, t, x_t), share(self.schedule, s, x_t)
        return torch.where(a_s >= 1, 1.0, (a_s - a_t) / (1 - a_t).clamp_min(1e-300)).clamp(0, 1)

    def transition(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, remask: Tensor | None = None) -> Tensor:
        """Law of x_s given x_t and the guess: probabilities (B, L, V), mask included, float64.

        ``remask`` (0 to 1, broadcasts with x_t) takes back revealed tokens with that share of the greatest probability,
        min(1, (1 - alpha_s) / alpha_t), at which alpha(s) of the tokens can still be there at s (ReMDM, Wang 2025, arXiv
        2503.00307).
        """
        vocab = ends.x.shape[-1] if ends.x.is_floating_point() else max(self.mask_id, int(ends.x.max())) + 1
        guess = probabilities(ends.x, vocab)
        mask = certain(torch.full_like(x_t, self.mask_id), vocab)
        gain, lost = self.gain(x_t, t, s)[..., None], torch.zeros((), dtype=F64, device=x_t.device)
        if remask is not None:
            a_t, a_s = (share(self.schedule, u, x_t)[..., None] for u in (t, s))
            lost = remask[..., None] * ((1 - a_s) / a_t.clamp_min(1e-300)).clamp_max(1.0)
            gain = torch.where(a_s >= 1, 1.0, (a_s - (1 - lost) * a_t) / (1 - a_t).clamp_min(1e-300)).clamp(0, 1)
        hidden = gain * guess + (1 - gain) * mask
        seen = (1 - lost) * certain(x_t.clamp_max(vocab - 1), vocab) + lost * mask
        return torch.where(self.open(x_t)[..., None], hidden, seen)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        """Draw x_s (B, L). Tokens have no deterministic limit: ``eta`` changes nothing, the step is the Markov chain's."""
        u, where = uniform_like(x_t, rng), self.open(x_t)
        t, s = (_per_token(time, x_t)[where][None] for time in (t, s))
        few = Endpoints(ends.x[where][None], ends.z[where][None])  # the others do not move: no need of their laws
        x_s = x_t.clone()
        if len(few.x[0]):
            x_s[where] = draw(self.transition(few, x_t[where][None], t, s), u[where][None])[0]
        return x_s

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return Endpoints(lerp(weak.x, strong.x, w), strong.z)

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Continuous-time bound on -log p(x), nats per token: (B,). The cross-entropy under the masks, times the rate at
        which tokens are lost over the share that is lost, -alpha' / (1 - alpha) (Sahoo 2024, arXiv 2406.07524).

        Raises:
            ValueError: data with the mask token or a token beyond the logits, or logits of a wrong shape.
        """
        self._check_data(x)
        answer, hidden = kept(answer, x.shape, t, weight), self.open(self.interpolate(x, z, t))
        if not answer.is_floating_point() and answer.shape == x.shape:
            surprise = torch.where(answer == x, 0.0, torch.inf)
        else:
            belief = self.belief(answer, x)
            if bool((x >= belief.shape[-1]).any()):
                raise ValueError(f"token {int(x.max())} is beyond the {answer.shape[-1]} logits per token")
            surprise = -belief.gather(-1, x[..., None])[..., 0]
        return self.bound(surprise, hidden, t, weight)

    def bound(self, surprise: Tensor, hidden: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss (B,) of ``surprise``, -log p of the data's tokens (B, L), which is read where they are ``hidden`` (B, L)."""
        rate = loss_rate(self.schedule, t, surprise) / (1 - share(self.schedule, t, surprise)).clamp_min(1e-300)
        lost = torch.where(hidden, rate.clamp_max(1e30) * torch.where(hidden, surprise, 0.0), 0.0)
        return mean_counted(lost, t, weight)

    def _check_data(self, x: Tensor) -> None:
        check_tokens(x)
        if bool(((x == self.mask_id) | (x < 0)).any()):
            raise ValueError(
                f"data must not hold negative tokens or the mask token {self.mask_id}: choose another mask_id"
            )


def _per_token(t: Tensor, x: Tensor) -> Tensor:
    return (t[:, None] if t.ndim == 1 else t).to(x.device).expand(x.shape)
