r"""Tokens as points: Gaussian noise over one-hot vectors, so that every method for tensors serves tokens too.

The network answers logits; the guess of the data is their softmax, which is the posterior mean of a one-hot vector, and
the guess of the noise is what remains of x_t. Trained by cross-entropy (FLM, arXiv 2602.16813).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.diffusion.paths import StraightPath
from sfumato.diffusion.process import Endpoints, Gaussian, States
from sfumato.diffusion.rng import Rng
from sfumato.diffusion.schedule import Linear, Schedule
from sfumato.diffusion.tokens import check_logits, check_tokens, wide
from sfumato.diffusion.weights import kept, mean_counted


@dataclass(frozen=True)
class OneHot(StraightPath):
    """Gaussian noise on one-hot tokens: the state is (B, L, V), the answer is logits (B, L, V).

    Data x may be given as tokens, int64 (B, L), or already as vectors (B, L, V). All solvers of Gaussian processes work.

    Args:
        vocab: number of tokens V.
        schedule: alpha and sigma, as for :class:`Gaussian`; :class:`Decoding` spends time evenly on what is decided.
        scale: length of a token's vector, in units of the noise's standard deviation.

    Raises:
        ValueError: vocab below 2, or a scale that is not positive.
    """

    vocab: int
    schedule: Schedule = Linear()
    scale: float = 1.0

    states: ClassVar[States] = "vectors"
    habits: ClassVar[Mapping[str, Any]] = {"solver": "dpmpp_2m", "grid": "cosine", "eta": 1.0}

    def __post_init__(self) -> None:
        if self.vocab < 2 or not self.scale > 0:
            raise ValueError(f"OneHot needs vocab >= 2 and scale > 0, got {self.vocab} and {self.scale}")

    @property
    def gaussian(self) -> Gaussian:
        """The process of the vectors; its answer is the data itself."""
        return Gaussian(self.schedule, "data")

    def embed(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Tokens (B, L) -> vectors (B, L, V); vectors pass through.

        Raises:
            ValueError: tokens that are not int64 (B, L) or outside the vocabulary, or vectors of another length than V.
        """
        if x.is_floating_point():
            if x.shape[-1] != self.vocab:
                raise ValueError(f"one-hot vectors of {self.vocab} tokens expected, got shape {tuple(x.shape)}")
            return x
        check_tokens(x)
        if bool(((x < 0) | (x >= self.vocab)).any()):
            raise ValueError(f"token {int(x.min())} or {int(x.max())} is outside the vocabulary 0 to {self.vocab - 1}")
        return self.scale * torch.nn.functional.one_hot(x, self.vocab).to(dtype or torch.get_default_dtype())

    def decode(self, x_t: Tensor) -> Tensor:
        """The nearest tokens: (B, L, V) -> (B, L)."""
        return x_t.argmax(-1)

    def prior(self, x: Tensor, rng: Rng = None) -> Tensor:
        return super().prior(self.embed(x), rng)

    def start(self, z: Tensor) -> Tensor:
        return self.gaussian.start(z)

    def interpolate(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return self.gaussian.interpolate(self.embed(x, z.dtype), z, t)

    def precondition(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.gaussian.precondition(x_t, t)

    def target(self, x: Tensor, z: Tensor, t: Tensor) -> Tensor:
        """The tokens themselves, int64 (B, L): as an answer they mean certainty."""
        return self.decode(x) if x.is_floating_point() else x

    def endpoints(self, answer: Tensor, x_t: Tensor, t: Tensor, rng: Rng = None) -> Endpoints:
        """x: the softmax of the answer, ``scale`` long (B, L, V). z: what remains of x_t. Tokens (B, L) mean certainty."""
        if answer.is_floating_point():
            self._check_answer(answer, x_t[..., 0])
            x = self.scale * torch.softmax(wide(answer), -1).to(x_t.dtype)
        else:
            x = self.embed(answer, x_t.dtype)
        return self.gaussian.endpoints(x, x_t, t)

    def noise_given(self, x: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """The noise z with interpolate(x, z, t) == x_t."""
        return self.gaussian.noise_given(self.embed(x, x_t.dtype), x_t, t)

    def step(self, ends: Endpoints, x_t: Tensor, t: Tensor, s: Tensor, eta: float = 0.0, rng: Rng = None) -> Tensor:
        return self.gaussian.interpolate(ends.x, self.renoise(ends.z, t, s, eta, rng), s)

    def mix(self, weak: Endpoints, strong: Endpoints, w: float | Tensor, x_t: Tensor, t: Tensor) -> Endpoints:
        return self.gaussian.mix(weak, strong, w, x_t, t)

    def loss(self, answer: Tensor, x: Tensor, z: Tensor, t: Tensor, weight: Tensor | None = None) -> Tensor:
        """Cross-entropy, nats per token: (B,). Vectors x that are no single token count as a mixture of them."""
        tokens = self.target(x, z, t)
        self._check_answer(answer, tokens)
        log_share = torch.log_softmax(wide(kept(answer, tokens.shape, t, weight)), -1)
        if not x.is_floating_point():
            return mean_counted(-log_share.gather(-1, tokens[..., None])[..., 0], t, weight)
        share = wide(x).clamp_min(0)
        return mean_counted(-(share / share.sum(-1, keepdim=True) * log_share).sum(-1), t, weight)

    def _check_answer(self, answer: Tensor, tokens: Tensor) -> None:
        check_logits(answer, tokens)
        if answer.shape[-1] != self.vocab:
            raise ValueError(f"the answer has {answer.shape[-1]} logits per token, the vocabulary {self.vocab} tokens")


# ---- a pace for one-hot tokens ---------------------------------------------------------------------------------------

_REACH = 12.0
"""Signal in units of noise beyond which no token is ever decoded wrongly in float64."""


@lru_cache(maxsize=1)
def _nodes(cells: int = 200) -> tuple[Tensor, Tensor]:
    """Quadrature against the normal density on [-12, 12]: composite Gauss-Legendre with 3 points a cell."""
    point = math.sqrt(0.6)
    inner = torch.tensor([-point, 0.0, point], dtype=torch.float64)
    share = torch.tensor([5 / 18, 8 / 18, 5 / 18], dtype=torch.float64)
    edges = torch.linspace(-12, 12, cells + 1, dtype=torch.float64)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges[1:] - edges[:-1]
    u = middle[:, None] + width[:, None] / 2 * inner
    weight = width[:, None] * share * torch.exp(-(u**2) / 2) / math.sqrt(2 * math.pi)
    return u.flatten(), weight.flatten()


def decoding_error(signal: Tensor, vocab: int) -> Tensor:
    """Probability that unit noise on V coordinates hides a ``signal`` added to one of them from the argmax: (...) -> (...).

    1 - integral phi(u) Phi(u + signal)^(V - 1) du, written so that small errors keep their digits.
    """
    u, weight = (a.to(signal.device) for a in _nodes())
    return -(weight * torch.expm1((vocab - 1) * torch.special.log_ndtr(u + signal.double()[..., None]))).sum(-1)


@lru_cache(maxsize=8)
def _table(vocab: int) -> tuple[Tensor, Tensor, Tensor]:
    """Signals from _REACH down to 0, the share of the worst decoding error at each, rising, and d signal / d share."""
    with torch.enable_grad():
        signal = torch.linspace(_REACH, 0, 2001, dtype=torch.float64, requires_grad=True)
        share = decoding_error(signal, vocab) / (1 - 1 / vocab)
        (slope,) = torch.autograd.grad(share.sum(), signal)
    return signal.detach(), share.detach(), 1 / slope


@dataclass(frozen=True)
class Decoding(Schedule):
    """The straight line at such a pace that the error rate of decoding by argmax grows linearly in t, from 0 at t = 0 to
    (V - 1) / V at t = 1: equal time for equal loss of what can be read off (FLM, arXiv 2602.16813).

    Args:
        vocab, scale: as in :class:`OneHot`.
    """

    vocab: int
    scale: float = 1.0

    def _signal(self, t: Tensor) -> Tensor:
        """alpha scale / sigma at which the error is t times the worst: cubic between the knots, with their slopes."""
        signal, share, slope = (a.to(t.device) for a in _table(self.vocab))
        right = torch.searchsorted(share, t.detach().double().contiguous()).clamp(1, len(share) - 1)
        left = right - 1
        width = share[right] - share[left]
        u = ((t.double() - share[left]) / width).clamp(0, 1)
        start, end = slope[left] * width, slope[right] * width
        fall = signal[right] - signal[left]
        bend = (1 - u) * (start - fall) - u * (end - fall)
        found = signal[left] + u * (fall + (1 - u) * bend)
        return found.clamp(0, _REACH)

    def _place(self, t: Tensor) -> Tensor:
        return (self.scale / (self.scale + self._signal(t))).to(t.dtype)

    def alpha(self, t: Tensor) -> Tensor:
        return torch.where(t <= 0, 1.0, torch.where(t >= 1, 0.0, 1 - self._place(t)))

    def sigma(self, t: Tensor) -> Tensor:
        return torch.where(t <= 0, 0.0, torch.where(t >= 1, 1.0, self._place(t)))

    def at_angle(self, angle: Tensor) -> Tensor:
        signal = (self.scale / angle.tan().clamp_min(1e-30)).clamp_max(2 * _REACH)
        return (decoding_error(signal, self.vocab) / (1 - 1 / self.vocab)).to(angle.dtype)
