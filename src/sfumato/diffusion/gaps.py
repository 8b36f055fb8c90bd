r"""Gaps: holes in a row of tokens of which nobody knows how long they are.

A gap stands for any number of tokens. It is opened by a grammar of three rules, each with its own probability,

    gap -> one token        gap -> gap gap  (expand)        gap -> nothing  (delete)

so before any text is seen a gap has n tokens with probability w(n), where w(0) = d + q w(0)^2, w(1) = p + 2 q w(0) w(1) and
w(n) = q sum_k w(k) w(n - k). The grammar is free of context: what a gap becomes does not depend on how it came about.
So if a row of tokens and gaps is made from a text by replacing runs of tokens by gaps, each with the factor w(length) and
otherwise by rules that look at the row alone, then given the row the runs under its gaps have the law

    p(runs | row)  ~  p(text) prod w(length of a run),

and opening gap after gap by the exact conditional probabilities of the three rules, *in any order*, draws from it: the
exact posterior of text and length together (chain rule over the derivation). Those conditionals are what a network
learns by cross-entropy. (Tokens that expand and delete: DreamOn, Wu 2025; there without a law of the length.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

F64 = torch.float64


class Gapped(NamedTuple):
    """Rows in which runs are gaps: what is shown (B, L) int64, what each gap becomes (B, L) int64, -1 where there is none."""

    shown: Tensor
    becomes: Tensor


@dataclass(frozen=True)
class Gaps:
    """The grammar, and the numbers of its four tokens.

    Args:
        expand, delete: what a network answers of a gap besides a token: that it is two gaps, or nothing.
        gap, nothing: what it is shown: a gap, and a place beyond the row's end, which nobody looks at.
        q, d: probability that a gap is two, and that it is nothing; it is one token with 1 - q - d.
        most: tokens of a run that is hidden in training.

    Raises:
        ValueError: probabilities that leave none for one token, or a gap that on the average becomes more than one.
    """

    expand: int
    delete: int
    gap: int
    nothing: int
    q: float = 0.45
    d: float = 0.05
    most: int = 24

    def __post_init__(self) -> None:
        if not (0 <= self.d < 1 and 0 < self.q <= 0.5 and self.q + self.d < 1) or self.most < 1:
            raise ValueError(
                f"q = {self.q:g}, d = {self.d:g}, most = {self.most}: must be 0 < q <= 0.5, 0 <= d < 1 - q, and at least 1"
            )

    @property
    def p(self) -> float:
        """Probability that a gap is one token."""
        return 1 - self.q - self.d

    @cached_property
    def weights(self) -> Tensor:
        """w(n), n = 0 .. most: (most + 1,) float64; all of them sum to 1 with those of longer runs."""
        w = [(1 - math.sqrt(1 - 4 * self.q * self.d)) / (2 * self.q)]
        inner = 1 - 2 * self.q * w[0]
        w.append(self.p / inner)
        for n in range(2, self.most + 1):
            w.append(self.q * sum(w[k] * w[n - k] for k in range(1, n)) / inner)
        return torch.tensor(w, dtype=F64)

    def hide(self, x: Tensor, where: Tensor, rate: Tensor, u: Tensor, length: int) -> Gapped:
        """Rows of ``length`` places made from tokens x (B, L): each place where ``where`` (B, L) is True is a gap with
        probability ``rate`` (B,), which stands for n tokens with probability ~ w(n); the others are the next token.

        Args:
            u: uniform numbers (B, L, 3). ``where`` and ``rate`` must not depend on what the tokens are.

        What is beyond the row's end, or beyond the end of x, is nothing.
        """
        places = torch.arange(x.shape[1], device=x.device)
        gap = where & (u[..., 0] < rate[:, None])
        law = self.weights.to(x.device).cumsum(0)
        n = torch.searchsorted(law / law[-1], u[..., 1].double().contiguous(), right=True).clamp_max(self.most)
        taken = torch.where(gap, n, 1)
        start = taken.cumsum(1) - taken
        there = (start + taken <= x.shape[1]) & (places < length)
        token = x.gather(1, start.clamp_max(x.shape[1] - 1))
        w0, w1 = self.weights[:2].tolist()
        directly = torch.where(n == 0, self.d / w0 if w0 else 0.0, torch.where(n == 1, self.p / w1, 0.0))
        plain = torch.where(n == 0, self.delete, token)
        becomes = torch.where(u[..., 2] < directly, plain, self.expand)
        shown = torch.where(there, torch.where(gap, self.gap, token), self.nothing)
        return Gapped(shown, torch.where(there & gap, becomes, -1))

    def log_rule(self, becomes: Tensor) -> Tensor:
        """Log-probability, before any text is seen, of the rule by which a gap becomes this."""
        rule = torch.full(becomes.shape, self.p, dtype=F64, device=becomes.device)
        rule = rule.masked_fill(becomes == self.expand, self.q).masked_fill(becomes == self.delete, self.d)
        return rule.log()


def opened(x: Tensor, becomes: Tensor, gaps: Gaps) -> Tensor:
    """Rows x (B, L) in which gaps became something (B, L), -1 where nothing is opened: what follows moves on or back. A row
    that grows beyond L loses its end."""
    copies = torch.where(x == gaps.nothing, 0, 1)
    copies = torch.where(becomes == gaps.expand, 2, torch.where(becomes == gaps.delete, 0, copies))
    y = torch.where((becomes < 0) | (becomes == gaps.expand), x, becomes)
    ends = copies.cumsum(1)
    place = torch.arange(x.shape[1], device=x.device).expand(x.shape).contiguous()
    source = torch.searchsorted(ends, place, right=True)
    return torch.where(place < ends[:, -1:], y.gather(1, source.clamp_max(x.shape[1] - 1)), gaps.nothing)
